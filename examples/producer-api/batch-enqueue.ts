import type { Producer } from 'pg-sluice';

export async function batchEnqueue(producer: Producer) {
  const payloads = [
    { user_id: 1, action: 'welcome_email' },
    { user_id: 2, action: 'welcome_email' },
    { user_id: 3, action: 'welcome_email' },
  ];

  // One transaction: all of them or none. The messages come back in the order of the payloads.
  const messages = await producer.batchEnqueue(payloads);

  console.log(`Enqueued ${messages.length} messages`);
  for (const msg of messages) {
    console.log(`  ID: ${msg.id}`);
  }
  return messages;
}
