import type { Producer } from 'pg-sluice';

export async function enqueue(producer: Producer) {
  const payload = {
    action: 'send_email',
    to: 'user@example.com',
    subject: 'Welcome!',
  };

  const message = await producer.enqueue(payload);

  console.log(`Message ID: ${message.id}`);
  console.log(`Enqueued at: ${message.enqueuedAt.toISOString()}`);
  return message;
}
