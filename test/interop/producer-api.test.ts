import { describe, expect, test } from 'vitest';
import { both, type Both } from './both.js';
import { missing, type PeerMessage, type PeerWorker } from './peer.js';

/** A time of pgqrs' with all six digits of its microseconds, which it cuts off where they are 0. */
function toTheMicrosecond(time: string): string {
  const [, second = '', fraction = ''] = /^([^.+Z]+)(?:\.(\d+))?(?:Z|\+00:00)$/.exec(time) ?? [];
  return `${second}.${fraction.padEnd(6, '0')}`;
}

/** The same time as the server writes it. */
const text = (column: string) =>
  `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') as ${column}`;

async function times({ pool, schema }: Both): Promise<Map<number, { enqueued_at: string; vt: string }>> {
  const { rows } = await pool.query<{ id: string; enqueued_at: string; vt: string }>(
    `select id, ${text('enqueued_at')}, ${text('vt')} from ${schema}.pgqrs_messages`,
  );
  return new Map(rows.map(({ id, ...row }) => [Number(id), row]));
}

describe.skipIf(missing !== undefined)('the Producer API meets pgqrs 0.15.3, which', () => {
  test('dequeues what enqueue(), batchEnqueue() and enqueueDelayed() put, field by field', async () => {
    const b = await both();
    const { peer, sluice } = b;
    await sluice.admin.install();
    const queue = await sluice.admin.createQueue('work');
    const producer = await sluice.producer('work');
    const batch = [[1, [2, null]], 'text ✓ \\ "q"', 7.5, false, null, {}, { n: 1e300 }];
    const now = [await producer.enqueue({ action: 'ünïcode ✓' }), ...(await producer.batchEnqueue(batch))];
    const later = await producer.enqueueDelayed({ reminder: true }, 3_600);
    const before = await times(b);

    const consumer = await peer.do<number>('consumer_id', { queue: 'work' });
    const got = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 20 });
    const leased = await times(b);
    const seen = (message: PeerMessage) => ({
      ...message,
      enqueued_at: toTheMicrosecond(message.enqueued_at),
      vt: toTheMicrosecond(message.vt),
    });
    /** What pgqrs must see of a message that it has taken. */
    const taken = ({ id, payload }: { id: string; payload: unknown }, vt: string) => ({
      id: Number(id),
      queue_id: Number(queue.id),
      payload,
      enqueued_at: before.get(Number(id))!.enqueued_at,
      vt,
      read_ct: 1,
      dequeued_at: expect.any(String) as string,
      producer_worker_id: Number(producer.workerId),
      consumer_worker_id: consumer,
      archived_at: null,
    });
    expect(got.map(seen).sort((one, other) => one.id - other.id)).toEqual(
      now.map((message) => taken(message, leased.get(Number(message.id))!.vt)),
    );
    // What we had returned is the same, to the millisecond.
    for (const { id, enqueuedAt, vt } of [...now, later]) {
      const row = before.get(Number(id))!;
      expect(enqueuedAt.toISOString()).toBe(`${row.enqueued_at.slice(0, -3)}Z`);
      expect(vt.toISOString()).toBe(`${row.vt.slice(0, -3)}Z`);
    }

    // The delayed one it gets as soon as its clock says so, and not a microsecond sooner.
    const due = before.get(Number(later.id))!.vt;
    const { rows } = await b.pool.query<{ sooner: string; lease: string }>(
      `select to_char($1::timestamp - interval '1 microsecond', 'YYYY-MM-DD"T"HH24:MI:SS.US') as sooner,
         to_char($1::timestamp + interval '30 seconds', 'YYYY-MM-DD"T"HH24:MI:SS.US') as lease`,
      [due],
    );
    const at = (time: string) =>
      peer.do<PeerMessage[]>('dequeue_at', { queue: 'work', limit: 20, seconds: 30, at: `${time}+00:00` });
    expect(await at(rows[0]!.sooner)).toEqual([]);
    expect((await at(due)).map(seen)).toEqual([taken(later, rows[0]!.lease)]);
    await sluice.admin.verify();
    await peer.do('verify');
  });

  test('sees nothing of what was cancelled, and of what was rescheduled when it is due', async () => {
    const { peer, sluice } = await both();
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    const producer = await sluice.producer('work');
    const [cancelled, sooner, later] = await producer.batchEnqueue(['cancelled', 'sooner', 'later'], {
      delaySeconds: 3_600,
    });
    expect(await producer.cancel(cancelled!.id)).toBe(true);
    expect(await producer.reschedule(sooner!.id, { delaySeconds: 0 })).toBe(true);
    const [got, ...others] = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 10 });
    expect(got).toMatchObject({ id: Number(sooner!.id), payload: 'sooner' });
    expect(others).toEqual([]);
    // What it holds is no longer ours to take back.
    expect(await producer.cancel(sooner!.id)).toBe(false);
    expect(await producer.reschedule(sooner!.id, { delaySeconds: 60 })).toBe(false);
    expect(await peer.do('archive', { queue: 'work', id: got!.id })).toBe(true);
    expect(await producer.cancel(later!.id)).toBe(true);
  });

  test('keeps the message whose lease our producer extends', async () => {
    const b = await both();
    const { peer, sluice } = b;
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    const producer = await sluice.producer('work');
    const { id } = await producer.enqueue({ slow: true });
    const [message] = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 1 });
    expect(await producer.extendVisibility(id, 600)).toBe(true);
    const { rows } = await b.pool.query(
      `select (extract(epoch from vt - $1::timestamptz))::float8 as added, consumer_worker_id::int as consumer
       from ${b.schema}.pgqrs_messages`,
      [message!.vt],
    );
    expect(rows).toEqual([{ added: 600, consumer: message!.consumer_worker_id }]);
    expect(await peer.do('archive', { queue: 'work', id: message!.id })).toBe(true);
    expect(await producer.extendVisibility(id, 600)).toBe(false);
  });

  test('lists our producer with the status that it has, from ready to stopped and back', async () => {
    const b = await both();
    const { peer, sluice } = b;
    await sluice.admin.install();
    const queue = await sluice.admin.createQueue('work');
    // Its timer must not beat between two looks.
    const identity = { hostname: 'my-service', port: 3_000, heartbeatIntervalSeconds: 3_600 };
    const producer = await sluice.producer('work', identity);
    const id = Number(producer.workerId);
    const expectStatus = async (status: string) => {
      const { rows } = await b.pool.query<{ heartbeat_at: string }>(
        `select ${text('heartbeat_at')} from ${b.schema}.pgqrs_workers where id = $1`,
        [id],
      );
      const seen = [
        (await peer.do<PeerWorker[]>('workers')).find((worker) => worker.id === id)!,
        await peer.do<PeerWorker>('worker', { id }),
      ];
      for (const worker of seen) {
        expect({ ...worker, heartbeat_at: toTheMicrosecond(worker.heartbeat_at) }).toEqual({
          id,
          name: 'my-service:3000',
          queue_id: Number(queue.id),
          heartbeat_at: rows[0]!.heartbeat_at,
          status: `WorkerStatus.${status}`,
        });
      }
    };
    await expectStatus('Ready');
    await producer.suspend();
    await expectStatus('Suspended');
    await producer.resume();
    await expectStatus('Ready');
    await producer.poll();
    await expectStatus('Polling');
    await producer.interrupt();
    await expectStatus('Interrupted');
    await producer.suspend();
    await producer.shutdown();
    await expectStatus('Stopped');
    expect((await sluice.producer('work', identity)).workerId).toBe(producer.workerId);
    await expectStatus('Ready');
  });

  test('finds its own consumer suspended where our handle suspended it', async () => {
    const { peer, sluice } = await both();
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    const handle = sluice.admin.worker(String(await peer.do<number>('consumer_id', { queue: 'work' })));
    expect(await handle.status()).toBe('ready');
    await handle.suspend();
    expect(await peer.do('consumer_status', { queue: 'work' })).toBe('WorkerStatus.Suspended');
    await handle.resume();
    expect(await peer.do('consumer_status', { queue: 'work' })).toBe('WorkerStatus.Ready');
  });
});

test.skipIf(missing !== undefined)(
  'what our payload rules let pass at their edges pgqrs reads, and what they refuse it cannot',
  async () => {
    const { peer, sluice } = await both();
    await sluice.admin.install();
    const nested = (levels: number): unknown => (levels === 0 ? 1 : [nested(levels - 1)]);
    const edges: [fits: unknown, refused: unknown][] = [
      [nested(127), nested(128)],
      [1.7976931348623155e308, Number.MAX_VALUE],
      [-1.7976931348623155e308, -Number.MAX_VALUE],
    ];
    for (const [n, [fits, refused]] of edges.entries()) {
      const queue = `edge-${n}`;
      await sluice.admin.createQueue(queue);
      const producer = await sluice.producer(queue);
      await producer.enqueue(fits);
      await expect(producer.enqueue(refused)).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });
      expect(await peer.do('dequeue', { queue, limit: 10 })).toHaveLength(1);
      const careless = await sluice.producer(queue, { readableByPgqrs: false, maxDepth: 10_000 });
      await careless.batchEnqueue([1, refused, 2]);
      await expect(peer.do('dequeue', { queue, limit: 10 })).rejects.toThrow(
        /recursion limit|number out of range/,
      );
    }
  },
);
