import type pg from 'pg';
import type { Producer } from 'pg-sluice';

interface Order {
  id: string;
  customer: string;
}

/** The rows of a table in the order of their key. Run every night, it takes those that are new. */
export async function ingestTable(producer: Producer, pool: pg.Pool) {
  return producer.ingest((id) => ordersBehind(pool, id), {
    resume: { name: 'table orders', position: ({ id }: Order) => id },
  });
}

async function* ordersBehind(pool: pg.Pool, id = '0'): AsyncGenerator<Order> {
  const query = 'select id::text, customer from orders where id > $1 order by orders.id limit 1000';
  for (let last: string | undefined = id; last !== undefined;) {
    const { rows }: pg.QueryResult<Order> = await pool.query(query, [last]);
    yield* rows;
    last = rows.at(-1)?.id;
  }
}
