import type { Id, Producer } from 'pg-sluice';

// Ids are strings: a bigint of the database does not fit into a number.
export async function extendVisibility(producer: Producer, messageId: Id = '42') {
  // Consumer dequeued message with ID 42
  // Processing is taking longer than expected...

  // Extend lock by 30 more seconds
  const extended = await producer.extendVisibility(messageId, 30);

  if (extended) {
    console.log('Lock extended, continue processing...');
  } else {
    console.log('Failed to extend - message may have been released');
  }
  return extended;
}
