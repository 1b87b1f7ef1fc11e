import type { Message, TransactionalContext } from 'pg-sluice';

export interface Payment {
  account: string;
  cents: number;
}

/** Exactly once: the booking commits together with the end of the message, or neither happens. */
export async function book({ payload }: Message<Payment>, { client }: TransactionalContext): Promise<void> {
  await client.query(
    `insert into balances (account, cents) values ($1, $2)
     on conflict (account) do update set cents = balances.cents + excluded.cents`,
    [payload.account, payload.cents],
  );
}
