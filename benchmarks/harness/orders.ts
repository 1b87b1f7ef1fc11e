/** Objects whose JSON is about 170 bytes, as in the design's measurements. */
export function* orders(count: number): Generator<object> {
  for (let n = 0; n < count; n++) {
    yield {
      id: n,
      type: 'order.created',
      customer: { id: n % 9_973, email: `customer${n % 9_973}@example.com` },
      total: (n % 100_000) / 100,
      currency: 'EUR',
      items: [n % 17, n % 31, n % 127],
      note: 'leave at the door',
    };
  }
}
