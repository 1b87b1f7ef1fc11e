import type { Producer } from 'pg-sluice';

export async function enqueueDelayed(producer: Producer) {
  const payload = {
    reminder: 'Follow up with customer',
    customer_id: 12345,
  };

  // Message available after 5 minutes (300 seconds)
  const message = await producer.enqueueDelayed(payload, 300);

  console.log(`Message ${message.id} will be available at ${message.vt.toISOString()}`);
  return message;
}
