import type { Id, StoredMessage } from '../../src/index.js';
import type { Scenario } from '../support/scenario.js';
import { foreignWorker } from '../support/worker-rows.js';
import { stored } from './producer-api.js';

/**
 * A consumer of pgqrs 0.15.3 as the server sees it: its statements, with times of its own clock where it uses that. For
 * the plain test run; test/interop has the real client.
 */
export class PgqrsConsumer {
  private constructor(
    private readonly s: Scenario,
    readonly workerId: Id,
  ) {}

  static async register(s: Scenario, name = 'pgqrs'): Promise<PgqrsConsumer> {
    return new PgqrsConsumer(s, await foreignWorker(s, { name, queueId: s.queue.id }));
  }

  /** dequeue_many_with_delay; in any order, as there. @param now of its clock */
  async dequeue(limit: number, { seconds = 30, now = new Date() } = {}): Promise<StoredMessage[]> {
    const ids = await this.#ids(
      `update m set vt = $1::timestamptz + $2 * interval '1 second', read_ct = read_ct + 1,
         dequeued_at = coalesce(dequeued_at, $1), consumer_worker_id = $3
       where id in (
         select id from m where queue_id = $4 and (vt is null or vt <= $1) and consumer_worker_id is null
           and archived_at is null and read_ct < 5
         order by enqueued_at asc limit $5 for update skip locked)`,
      [now, seconds, this.workerId, this.s.queue.id, limit],
    );
    return (await stored(this.s)).filter(({ id }) => ids.includes(id));
  }

  archive(ids: readonly Id[]): Promise<Id[]> {
    return this.#mine(`update m set archived_at = now()`, ids, 'and archived_at is null');
  }

  delete(ids: readonly Id[]): Promise<Id[]> {
    return this.#mine('delete from m', ids);
  }

  release(ids: readonly Id[]): Promise<Id[]> {
    return this.#mine('update m set vt = now(), consumer_worker_id = null', ids);
  }

  extend(ids: readonly Id[], seconds: number): Promise<Id[]> {
    return this.#mine(`update m set vt = vt + ${seconds} * interval '1 second'`, ids);
  }

  /** Admin's dlq(): those of all queues, leased ones too. */
  dlq(): Promise<Id[]> {
    return this.#ids('update m set archived_at = now() where read_ct >= 5 and archived_at is null', []);
  }

  /** Producer's replay_dlq(). */
  replay(id: Id): Promise<Id[]> {
    return this.#ids(
      `update m set archived_at = null, read_ct = 0, vt = now(), enqueued_at = now(), consumer_worker_id = null,
         dequeued_at = null where id = $1 and archived_at is not null`,
      [id],
    );
  }

  #mine(change: string, ids: readonly Id[], more = ''): Promise<Id[]> {
    return this.#ids(`${change} where id = any ($1) and consumer_worker_id = $2 ${more}`, [
      ids,
      this.workerId,
    ]);
  }

  /** `m` stands for the table. @returns the ids of what was changed, ascending */
  async #ids(text: string, values: unknown[]): Promise<Id[]> {
    const statement = text.replaceAll(/\bm\b/g, `${this.s.schema}.pgqrs_messages`);
    const { rows } = await this.s.pool.query<{ id: Id }>(
      `with changed as (${statement} returning id) select id::text from changed order by changed.id`,
      values,
    );
    return rows.map(({ id }) => id);
  }
}
