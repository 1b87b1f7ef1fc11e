import type pg from 'pg';
import type { Producer } from 'pg-sluice';

export interface Order {
  customerId: number;
  total: number;
}

/** The order and its message: both are there, or neither is. */
export async function placeOrder(pool: pg.Pool, producer: Producer, { customerId, total }: Order) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('insert into orders (customer_id, total) values ($1, $2)', [customerId, total]);
    const message = await producer.enqueue({ action: 'confirm_order', customerId, total }, { client });
    await client.query('commit'); // only now consumers see the message, and are woken
    return message;
  } catch (error) {
    await client.query('rollback');
    throw error;
  } finally {
    client.release();
  }
}
