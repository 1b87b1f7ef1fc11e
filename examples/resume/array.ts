import type { Producer } from 'pg-sluice';

/** Run again after whatever ended it, it goes on behind the orders that are in the queue: they are counted. */
export async function ingestOrders(producer: Producer, orders: readonly object[]) {
  return producer.ingest(orders, { resume: 'orders of november' });
}
