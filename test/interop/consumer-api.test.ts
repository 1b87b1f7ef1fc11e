import { describe, expect, test } from 'vitest';
import type { Consumer, ForeignLeases } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { both, type Both, exactly, micros } from './both.js';
import { missing, Peer, PeerError, type PeerMessage } from './peer.js';

/** An installed schema with one queue and `count` messages of ours. */
async function started(count: number) {
  const b = await both();
  await b.sluice.admin.install();
  const queue = await b.sluice.admin.createQueue('work');
  const producer = await b.sluice.producer('work');
  const ids = (await producer.batchEnqueue([...numbered(count)])).map(({ id }) => Number(id));
  const take = (limit: number) => b.peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit });
  return { ...b, queue, producer, ids, take };
}

const idsOf = (messages: readonly { id: string | number }[]) => messages.map(({ id }) => Number(id));

/** As if that much time had passed for the leases of pgqrs' consumer, and for its heartbeat. */
async function passed({ pool, schema }: Both, worker: number, lease: number, heartbeat: number) {
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = now() - $2 * interval '1 second' where consumer_worker_id = $1`,
    [worker, lease],
  );
  await pool.query(
    `update ${schema}.pgqrs_workers set heartbeat_at = now() - $2 * interval '1 second' where id = $1`,
    [worker, heartbeat],
  );
}

/** A date as the server has it to the microsecond, and as a Date of ours has it. */
const cut = (time: string | null) => (time === null ? null : Number(micros(time)! / 1_000n));

describe.skipIf(missing !== undefined)('the Consumer API meets pgqrs 0.15.3, which', () => {
  test('holds, archives, deletes and releases, and we see it field by field and follow', async () => {
    const { peer, sluice, ids, queue, take, rows } = await started(8);
    const worker = String(await peer.do<number>('consumer_id', { queue: 'work' }));
    const taken = await take(6);
    const mine = ids.filter((id) => !idsOf(taken).includes(id));
    const held = await sluice.admin.workerMessages(worker);
    const written = new Map((await rows()).map((row) => [row.id, row]));
    expect(idsOf(held).sort()).toEqual(idsOf(taken).sort());
    for (const message of held) {
      const row = written.get(Number(message.id))!;
      expect({ ...message, payload: row.payload }).toEqual({
        id: String(row.id),
        queueId: queue.id,
        payload: row.payload,
        vt: new Date(cut(row.vt)!),
        enqueuedAt: new Date(cut(row.enqueued_at)!),
        readCount: 1,
        dequeuedAt: new Date(cut(row.dequeued_at)!),
        producerWorkerId: String(row.producer_worker_id),
        consumerWorkerId: worker,
        archivedAt: null,
      });
    }
    const consumer = await sluice.consumer('work');
    expect(idsOf(await consumer.dequeueMany(10))).toEqual(mine);

    const [a, b, c, d, e, f] = idsOf(taken) as [number, number, number, number, number, number];
    expect(await peer.do('archive_many', { queue: 'work', ids: [a, mine[0], b] })).toEqual([
      true,
      false,
      true,
    ]);
    expect(await peer.do('delete_many', { queue: 'work', ids: [c, mine[1]] })).toEqual([true, false]);
    expect(await peer.do('release', { queue: 'work', ids: [d] })).toBe(1);
    const later = new Date(Date.now() + 3_600_000).toISOString();
    expect(await peer.do('release_at', { queue: 'work', id: e, at: later })).toBe(true);
    expect(idsOf((await sluice.admin.archive('work').list()).messages).sort()).toEqual([a, b].sort());
    expect(await sluice.admin.getMessage(String(c))).toBeUndefined();
    expect((await sluice.admin.getMessage(String(e)))!.vt.toISOString()).toBe(later);
    const got = await eventually('the released one to be due', () => consumer.dequeue());
    expect(got).toMatchObject({ id: String(d), readCount: 2 });
    expect(await consumer.dequeue()).toBeUndefined();
    expect(await consumer.archiveMany([String(f), String(a), String(d)])).toEqual([false, false, true]);
    expect(await sluice.admin.queueMetrics('work')).toMatchObject({
      archived: 3,
      leased: 3,
      delayed: 1,
      ready: 0,
    });
    await sluice.admin.verify();
    await peer.do('verify');
  });

  test.each<[policy: ForeignLeases, lease: number, heartbeat: number, comesBack: boolean]>([
    ['never', 1_000, 1_000, false],
    ['stale', 1_000, 30, false],
    ['stale', 30, 1_000, false],
    ['stale', 61, 61, true],
    ['expired', -10, 1_000, false],
    ['expired', 1, 0, true],
  ])(
    'left a message leased: by %s it is ours %d s after the lease and %d s after the heartbeat: %s',
    async (foreignLeases, lease, heartbeat, comesBack) => {
      const b = await started(1);
      const worker = await b.peer.do<number>('consumer_id', { queue: 'work' });
      const [message] = await b.take(1);
      await passed(b, worker, lease, heartbeat);
      const consumer = await b.sluice.consumer('work', { foreignLeases });
      const taken = await consumer.dequeue();
      if (!comesBack) {
        expect(taken).toBeUndefined();
        // It may be late, and is not wrong.
        expect(await b.peer.do('archive', { queue: 'work', id: message!.id })).toBe(true);
        return;
      }
      expect(taken).toMatchObject({ id: String(message!.id), readCount: 2 });
      for (const change of ['archive', 'delete'])
        expect(await b.peer.do(change, { queue: 'work', id: message!.id })).toBe(false);
      expect(await b.peer.do('release', { queue: 'work', ids: [message!.id] })).toBe(0);
      expect(await b.peer.do('extend', { queue: 'work', id: message!.id, seconds: 60 })).toBe(false);
      expect(await taken!.archive()).toBe(true);
    },
  );

  test('extends its lease by microseconds that we keep to', async () => {
    const b = await started(1);
    const [message] = await b.peer.do<PeerMessage[]>('dequeue_for', { queue: 'work', limit: 1, seconds: 0 });
    const consumer = await b.sluice.consumer('work', { foreignLeases: 'expired' });
    const before = (await b.rows())[0]!.vt;
    expect(await b.peer.do('extend', { queue: 'work', id: message!.id, seconds: 600 })).toBe(true);
    const [row] = await b.rows();
    expect(micros(row!.vt)! - micros(before)!).toBe(600_000_000n);
    expect(await consumer.dequeue()).toBeUndefined();
    expect((await b.sluice.admin.getMessage(String(message!.id)))!.vt.getTime()).toBe(cut(row!.vt));
  });

  test('gets nothing of what we hold, however long, and sees what we archive and give up', async () => {
    const { peer, sluice, queue, rows, ids } = await started(3);
    const consumer = await sluice.consumer('work');
    const far = {
      queue: 'work',
      limit: 10,
      seconds: 30,
      at: new Date(Date.now() + 86_400_000).toISOString(),
    };
    let leave = () => {};
    const left = new Promise<void>((resolve) => (leave = resolve));
    const run = consumer.run(() => left, { lockSeconds: 0.5 });
    await eventually('all claimed', async () => (await rows()).every(({ read_ct }) => read_ct === 1));
    const until = micros((await rows())[0]!.vt)!;
    await eventually('a renewal', async () => micros((await rows())[0]!.vt)! > until);
    expect(await peer.do('dequeue_at', far)).toEqual([]);
    for (const change of ['archive', 'delete'])
      expect(await peer.do(change, { queue: 'work', id: ids[0] })).toBe(false);
    expect(await peer.do('release', { queue: 'work', ids })).toBe(0);
    leave();
    await eventually('all archived', async () => (await peer.do('count')) === 0);
    await within(10_000, 'closing', consumer.close());
    expect((await run).done).toBe(3);
    const seen = await peer.do<PeerMessage[]>('archived', { queue_id: Number(queue.id) });
    expect(seen.map(exactly).sort((a, b) => a.id - b.id)).toEqual((await rows()).map(exactly));
    expect(seen.every(({ consumer_worker_id }) => consumer_worker_id === Number(consumer.workerId))).toBe(
      true,
    );
    expect(await peer.do('dequeue_at', far)).toEqual([]);
    await peer.do('verify');
  });

  test('sees a dead letter of ours as archived, and gets it once we have replayed it', async () => {
    const { peer, sluice, producer, queue, rows, take } = await started(2);
    const consumer = await sluice.consumer('work', { maxReadCount: 1 });
    const [given, spent] = await consumer.dequeueMany(2);
    await given!.deadLetter('rejected');
    await spent!.fail(new Error('boom'));
    const archived = await peer.do<PeerMessage[]>('archived', { queue_id: Number(queue.id) });
    expect(archived.map(exactly).sort((a, b) => a.id - b.id)).toEqual((await rows()).map(exactly));
    expect(await take(10)).toEqual([]);
    expect(await producer.replay(given!.id)).toMatchObject({ id: given!.id, readCount: 0 });
    expect(await sluice.admin.deadLetters('work').replay(spent!.id)).toBe(1);
    const got: PeerMessage[] = [];
    await eventually('both to be due by its clock', async () => got.push(...(await take(10))) === 2);
    expect(idsOf(got).sort()).toEqual(idsOf([given!, spent!]).sort());
    expect(got.map(exactly).sort((a, b) => a.id - b.id)).toEqual((await rows()).map(exactly));
    for (const message of got) expect(message).toMatchObject({ read_ct: 1, archived_at: null });
    expect(await peer.do('archive_many', { queue: 'work', ids: idsOf(got) })).toEqual([true, true]);
    expect(await sluice.admin.deadLetters('work').count()).toBe(0);
    expect(await sluice.admin.archive('work').count()).toBe(2);
  });

  test('gets a message of ours only when it was released, and a lease that expired is delivered once', async () => {
    const { peer, sluice, ids, take } = await started(2);
    const [one, two] = [await sluice.consumer('work'), await sluice.consumer('work')] as [Consumer, Consumer];
    const [first, second] = await one.dequeueMany(2, { lockSeconds: 0.3 });
    const again = await eventually('the leases to expire', async () => {
      expect(await take(10)).toEqual([]);
      return two.dequeue();
    });
    expect(again).toMatchObject({ id: first!.id, readCount: 2 });
    expect(await first!.archive()).toBe(false);
    expect(await take(10)).toEqual([]);
    expect(await again.archive()).toBe(true);
    // What is free is for anybody.
    expect(await second!.release()).toBe(true);
    const got = await eventually('it to be due by its clock', async () => (await take(10))[0]);
    expect(got).toMatchObject({ id: ids[1], read_ct: 2 });
    expect(await second!.archive()).toBe(false);
    expect(await peer.do('archive', { queue: 'work', id: got.id })).toBe(true);
    // So is what its admin takes from a worker of ours.
    await (await sluice.producer('work')).enqueue('third');
    const third = await eventually('the third', () => one.dequeue());
    expect(await peer.do('release_worker', { worker_id: Number(one.workerId) })).toBe(1);
    expect(await third.archive()).toBe(false);
    expect(await eventually('the third again', () => two.dequeue())).toMatchObject({
      id: third.id,
      readCount: 2,
    });
  });

  test('leaves a message leased when its handler fails, until we reclaim it', async () => {
    const b = await started(1);
    const failed = await b.peer.do('consume_and_fail', { queue: 'work' }).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(PeerError);
    const [row] = await b.rows();
    const worker = row!.consumer_worker_id!;
    expect(row).toMatchObject({ read_ct: 1, archived_at: null });
    expect(idsOf(await b.sluice.admin.workerMessages(String(worker)))).toEqual(b.ids);
    const consumer = await b.sluice.consumer('work');
    expect(await b.sluice.admin.reclaim({ queue: 'work' })).toEqual({ workers: [], messages: 0 });
    await passed(b, worker, -30, 61);
    expect(await b.sluice.admin.reclaim({ queue: 'work' })).toEqual({
      workers: [String(worker)],
      messages: 1,
    });
    expect(await consumer.dequeue()).toMatchObject({ id: String(b.ids[0]), readCount: 2 });
    expect(await b.peer.do('worker', { id: worker })).toMatchObject({ status: 'WorkerStatus.Stopped' });
  });

  test('shares 500 messages with us, two consumers each: every one is delivered and archived once', async () => {
    const { peer, sluice, url, schema, queue, rows } = await started(0);
    const peers = [peer, new Peer(url, schema)];
    const total = 500;
    const theirIds = await Promise.all(
      peers.map((client) => client.do<number>('consumer_id', { queue: 'work' })),
    );
    await peer.do('enqueue_batch', { queue: 'work', payloads: [...numbered(total / 2)] });
    const draining = peers.map((client) =>
      client.do<number[]>('drain', { queue: 'work', queue_id: Number(queue.id), limit: 5, total }),
    );
    const archivedBy = async (worker: number) =>
      (await rows()).some((row) => row.consumer_worker_id === worker && row.archived_at !== null);
    for (const worker of theirIds) await eventually('it to have begun', () => archivedBy(worker));

    const ours: number[] = [];
    const consumers = [await sluice.consumer('work'), await sluice.consumer('work')];
    const runs = consumers.map((consumer) =>
      consumer.run(({ id }) => void ours.push(Number(id)), { concurrency: 5 }),
    );
    const producer = await sluice.producer('work');
    await producer.ingest(numbered(total / 2, total / 2));
    const theirs = (await within(20_000, 'the peers', Promise.all(draining))).flat();
    for (const consumer of consumers) await within(10_000, 'closing', consumer.close());
    const done = (await Promise.all(runs)).reduce((sum, summary) => sum + summary.done, 0);

    const written = await rows();
    expect(written).toHaveLength(total);
    expect(written.every(({ archived_at, read_ct }) => archived_at !== null && read_ct === 1)).toBe(true);
    expect([...ours, ...theirs].sort((a, b) => a - b)).toEqual(idsOf(written).sort((a, b) => a - b));
    expect(done).toBe(ours.length);
    expect(Math.min(ours.length, theirs.length)).toBeGreaterThan(0);
    await sluice.admin.verify();
    await peer.do('verify');
  });
});
