import { PayloadInvalidError, type Sluice } from 'pg-sluice';
import { z } from 'zod'; // or valibot, arktype: whatever speaks Standard Schema

const Email = z.object({
  to: z.email(),
  subject: z.string().default('Welcome!'),
});

export async function typedProducer(sluice: Sluice) {
  await using producer = await sluice.producer('emails', { schema: Email });

  // The compiler knows what the schema takes...
  const message = await producer.enqueue({ to: 'user@example.com' });

  // ...and what it makes of that, which is what is stored.
  console.log(`Subject: ${message.payload.subject}`);

  // What the compiler cannot see is refused before anything is sent.
  try {
    await producer.enqueue({ to: 'nobody' });
  } catch (error) {
    if (!(error instanceof PayloadInvalidError)) throw error;
    console.log(`Refused: ${error.issues.map(({ path }) => path).join(', ')}`);
  }
  return message;
}

interface Reminder {
  reminder: string;
  customer_id: number;
}

/** Without a schema the type is a promise of the program's to itself: nothing is checked when it runs. */
export async function typedByHand(sluice: Sluice) {
  await using producer = await sluice.producer<Reminder>('reminders');

  return await producer.enqueue({ reminder: 'Follow up with customer', customer_id: 12345 });
}
