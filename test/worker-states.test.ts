import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Consumer, InvalidStateTransitionError, type WorkerStatus } from '../src/index.js';
import type { Db } from '../src/db.js';
import { WorkerHandle } from '../src/worker-handle.js';
import type { WorkerAction } from '../src/worker-row.js';
import { eventually, within } from './support/eventually.js';
import { scenario } from './support/scenario.js';
import { row, setStatus } from './support/worker-rows.js';

const STATES: readonly WorkerStatus[] = ['ready', 'polling', 'suspended', 'interrupted', 'stopped'];

/** Every action: its goal, from where it is allowed, and pgqrs' words where it is not. */
const TABLE: Record<WorkerAction, [to: WorkerStatus, from: readonly WorkerStatus[], reason: string]> = {
  suspend: [
    'suspended',
    ['ready', 'polling', 'interrupted'],
    'Worker must be Ready, Polling, or Interrupted to suspend',
  ],
  resume: ['ready', ['suspended'], 'Worker must be in Suspended state to resume'],
  poll: ['polling', ['ready', 'polling'], 'Worker must be Ready to start polling'],
  completePoll: ['ready', ['polling'], 'Worker must be in Polling state to complete polling'],
  interrupt: ['interrupted', ['polling'], 'Worker must be in Polling state to be interrupted'],
  shutdown: ['stopped', ['suspended'], 'Worker must be in Suspended state to shutdown'],
};

type Actor = Partial<Record<WorkerAction, () => Promise<void>>> & { status(): Promise<WorkerStatus> };

function handleOf(worker: Consumer): WorkerHandle {
  return new WorkerHandle((worker as unknown as { db: Db }).db, worker.workerId);
}

/** Both ways to move a worker: of its own accord, and by whoever knows its id. */
const ACTORS: Record<string, { actor: (worker: Consumer) => Actor; actions: readonly WorkerAction[] }> = {
  Worker: {
    actor: (worker) => worker,
    actions: ['suspend', 'resume', 'poll', 'completePoll', 'interrupt', 'shutdown'],
  },
  WorkerHandle: { actor: handleOf, actions: ['suspend', 'resume', 'interrupt', 'shutdown'] },
};

/** Does not beat: an interrupted worker stays so. */
const STILL = { heartbeatIntervalSeconds: 3_600 };

describe.each(Object.entries(ACTORS))('%s', (_name, { actor, actions }) => {
  test.each(actions)('%s is allowed from where the table says, and nowhere else', async (action) => {
    const s = await scenario();
    const [to, allowed, reason] = TABLE[action];
    for (const from of STATES) {
      const worker = await s.consumer(STILL);
      const acting = actor(worker);
      await setStatus(s, worker.workerId, from);
      const moving = acting[action]!();
      if (allowed.includes(from)) {
        await moving;
        expect(await acting.status()).toBe(to);
        expect(await row(s, worker.workerId)).toMatchObject({ status: to, stopped: to === 'stopped' });
      } else {
        const error = await moving.then(
          () => expect.unreachable(`${action} from ${from}`),
          (error: unknown) => error,
        );
        expect(error).toBeInstanceOf(InvalidStateTransitionError);
        expect(error).toMatchObject({ code: 'INVALID_STATE_TRANSITION', from, to, reason });
        expect(await row(s, worker.workerId)).toMatchObject({ status: from, stopped: false });
      }
    }
  });

  test('of moves that exclude each other exactly one happens, and the others say what they found', async () => {
    const s = await scenario({ maxConnections: 8 });
    for (let round = 0; round < 10; round++) {
      const worker = await s.consumer(STILL);
      const rivals = [actor(worker), ...Array.from({ length: 3 }, () => handleOf(worker))];
      const results = await Promise.allSettled(rivals.map((rival) => rival.suspend!()));
      const refused = results.filter((result) => result.status === 'rejected');
      expect(refused).toHaveLength(rivals.length - 1);
      for (const { reason } of refused) expect(reason).toMatchObject({ from: 'suspended', to: 'suspended' });
    }
  });

  test('a batch that is under way does not hold a move up', async () => {
    const s = await scenario();
    const worker = await s.consumer(STILL);
    const client = new pg.Client(s.url);
    await client.connect();
    onTestFinished(() => client.end());
    await client.query('begin');
    await client.query(`select from ${s.schema}.pgqrs_workers where id = $1 for key share`, [
      worker.workerId,
    ]);
    await within(2_000, 'suspend', actor(worker).suspend!());
    await client.query('rollback');
  });

  test('a move that waits for another in a transaction judges what that one leaves', async () => {
    const s = await scenario();
    const worker = await s.consumer(STILL);
    const client = new pg.Client(s.url);
    await client.connect();
    onTestFinished(() => client.end());
    const leave = async (status: WorkerStatus, moving: () => Promise<void>) => {
      await client.query('begin');
      await client.query(
        `update ${s.schema}.pgqrs_workers set status = $2::text::${s.schema}.worker_status where id = $1`,
        [worker.workerId, status],
      );
      const moved = moving();
      await eventually('the move waits', async () => {
        const { rows } = await s.pool.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%move_worker%${s.schema}%'`,
        );
        return rows.length === 1;
      });
      await client.query('commit');
      await moved;
    };
    const acting = actor(worker);
    // From ready it would have been refused.
    await leave('suspended', () => acting.resume!());
    expect(await acting.status()).toBe('ready');
    // From ready it would have been done.
    await expect(leave('stopped', () => acting.suspend!())).rejects.toMatchObject({ from: 'stopped' });
    expect(await acting.status()).toBe('stopped');
  });
});
