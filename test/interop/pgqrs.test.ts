import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { both, exactly, micros } from './both.js';
import { missing, Peer, PeerError, type PeerMessage } from './peer.js';

describe.skipIf(missing !== undefined)('pgqrs 0.15.3', () => {
  test('installs and verifies over our schema, empty and with data, and changes nothing', async () => {
    const { peer, sluice } = await both();
    await sluice.admin.install();
    await peer.do('install');
    await peer.do('verify');
    await sluice.admin.verify();
    await sluice.admin.createQueue('work');
    await (await sluice.producer('work')).ingest(numbered(50));
    await peer.do('install');
    await peer.do('verify');
    await sluice.admin.verify();
  });

  test('installs while we do, and both succeed', async () => {
    for (let round = 0; round < 4; round++) {
      const { peer, sluice } = await both();
      await expect(peer.do('count')).rejects.toThrow(PeerError); // connected, and nothing is installed
      const theirs = peer.do('install');
      await delay(round * 5); // each round another moment of it
      await Promise.all([theirs, sluice.admin.install()]);
      await peer.do('verify');
      await sluice.admin.verify();
    }
  });

  test.each(['copy', 'insert'] as const)('reads field by field what we write by %s', async (method) => {
    const { peer, sluice, rows } = await both();
    await sluice.admin.install();
    const queue = await sluice.admin.createQueue('work');
    const producer = await sluice.producer('work');
    const payloads = [{ n: 1, text: 'ünïcode ✓ \\ "q"' }, [1, [2]], 'text', 7.5, true, { none: null }, {}];
    // One after another, so that the ids are in order too.
    await producer.ingest(payloads, { method, batchSize: 3, concurrency: 1 });
    const got = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 10 });
    const written = await rows();
    expect(got.map(exactly).sort((a, b) => a.id - b.id)).toEqual(written.map(exactly));
    expect(written.map(({ payload }) => payload)).toEqual(payloads);
    for (const row of written) {
      expect(row).toMatchObject({
        queue_id: Number(queue.id),
        producer_worker_id: Number(producer.workerId),
        consumer_worker_id: await peer.do('consumer_id', { queue: 'work' }),
        read_ct: 1,
      });
      expect(row.dequeued_at).not.toBeNull();
    }

    const [first, second, ...rest] = written.map(({ id }) => id) as [number, number, ...number[]];
    expect(await peer.do('archive', { queue: 'work', id: first })).toBe(true);
    expect(await peer.do('archive', { queue: 'work', id: first })).toBe(false);
    expect(await peer.do('delete', { queue: 'work', id: second })).toBe(true);
    expect(await peer.do('release', { queue: 'work', ids: rest })).toBe(rest.length);
    const archived = await peer.do<PeerMessage[]>('archived', { queue_id: Number(queue.id) });
    expect(archived.map(exactly)).toEqual((await rows()).filter(({ id }) => id === first).map(exactly));
    // What pgqrs released, we get.
    const consumer = await sluice.consumer('work');
    const again = await consumer.dequeueMany(10);
    expect(again.map(({ id, readCount }) => [Number(id), readCount])).toEqual(rest.map((id) => [id, 2]));
    await sluice.admin.verify();
    await peer.do('verify');
  });

  test('a delay of ours hides the message from pgqrs until it is due', async () => {
    const { peer, sluice, rows } = await both();
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    const producer = await sluice.producer('work');
    await producer.ingest([{ due: 'later' }, { due: 'now' }], {
      delaySeconds: ({ due }) => (due === 'now' ? 0 : 3_600),
    });
    const [later] = await rows();
    expect(micros(later!.vt)! - micros(later!.enqueued_at)!).toBe(3_600_000_000n);
    const got = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 10 });
    expect(got.map(({ payload }) => payload)).toEqual([{ due: 'now' }]);
  });

  test('writes what we read field by field, delayed messages when they are due', async () => {
    const { peer, sluice, rows } = await both();
    await sluice.admin.install();
    await peer.do('create_queue', { queue: 'work' });
    const queue = await sluice.admin.getQueue('work');
    const payloads = [{ n: 1, text: 'ünïcode ✓' }, { n: 2 }, { n: 3, deep: { list: [1, null, 'x'] } }];
    const ids = [
      await peer.do<number>('enqueue', { queue: 'work', payload: payloads[0] }),
      ...(await peer.do<number[]>('enqueue_batch', { queue: 'work', payloads: payloads.slice(1) })),
    ];
    const later = await peer.do<number>('enqueue_delayed', {
      queue: 'work',
      payload: { later: true },
      seconds: 3_600,
    });
    const written = await rows();
    expect(written.map(({ id }) => id)).toEqual([...ids, later]);
    expect(micros(written[3]!.vt)! - micros(written[3]!.enqueued_at)!).toBe(3_600_000_000n);

    const consumer = await sluice.consumer('work');
    for (const [index, row] of written.slice(0, 3).entries()) {
      const message = await eventually('it is due by the server clock', () => consumer.dequeue());
      expect({
        id: Number(message.id),
        queueId: message.queueId,
        payload: message.payload,
        enqueuedAt: message.enqueuedAt.getTime(),
        readCount: message.readCount,
        producer: Number(message.producerWorkerId),
        archivedAt: message.archivedAt,
      }).toEqual({
        id: ids[index],
        queueId: queue.id,
        payload: payloads[index],
        enqueuedAt: Number(micros(row.enqueued_at)! / 1_000n),
        readCount: 1,
        producer: await peer.do('producer_id', { queue: 'work' }),
        archivedAt: null,
      });
      expect(await message.archive()).toBe(true);
    }
    expect(await consumer.dequeue()).toBeUndefined();
    await sluice.admin.verify();
  });

  test('meets the same refusals as over its own keys', async () => {
    const { peer, sluice, pool, schema } = await both();
    await sluice.admin.install();
    await peer.do('create_queue', { queue: 'work' });
    await peer.do('enqueue', { queue: 'work', payload: { n: 1 } });
    const producer = await peer.do<number>('producer_id', { queue: 'work' });
    await expect(sluice.admin.deleteWorker(String(producer))).rejects.toMatchObject({
      code: 'WORKER_IN_USE',
    });
    await sluice.admin.purgeQueue('work');
    expect(await sluice.admin.deleteWorker(String(producer))).toBe(true);
    // Its producer knows nothing of that, and writes on.
    const late = await peer
      .do('enqueue', { queue: 'work', payload: { n: 2 } })
      .catch((error: unknown) => error);
    expect(late).toBeInstanceOf(PeerError);
    expect((late as PeerError).type).toBe('PgqrsConnectionError');
    expect((await pool.query(`select from ${schema}.pgqrs_messages`)).rowCount).toBe(0);
    await sluice.admin.verify();
  });

  test('its database becomes ours without a change of its data, while its producer writes on', async () => {
    const { peer, sluice, rows, pool, schema, url } = await both();
    await peer.do('install');
    await peer.do('create_queue', { queue: 'work' });
    await peer.do('enqueue_batch', {
      queue: 'work',
      payloads: [...numbered(20)],
    });
    await peer.do('enqueue_delayed', { queue: 'work', payload: { later: true }, seconds: 3_600 });
    const leased = await peer.do<PeerMessage[]>('dequeue', { queue: 'work', limit: 5 });
    await peer.do('archive', { queue: 'work', id: leased[0]!.id });
    const run = await peer.do<number>('start_run', { name: 'flow', argument: { a: 1 } });
    const state = async () => {
      const tables = [
        'pgqrs_queues',
        'pgqrs_workers',
        'pgqrs_workflows',
        'pgqrs_workflow_runs',
        '_sqlx_migrations',
      ];
      const contents = await Promise.all(
        tables.map((table) => pool.query(`select to_jsonb(t) as row from ${schema}.${table} t order by 1`)),
      );
      return contents.map((result) => result.rows as unknown[]);
    };
    const before = { messages: await rows(), state: await state() };
    expect(before.messages).toHaveLength(22);

    const writer = new Peer(url, schema);
    const done = new AbortController();
    let written = 0;
    await writer.do('producer_id', { queue: 'work' });
    const withWriter = await state();
    const writing = (async () => {
      while (!done.signal.aborted) {
        await writer.do('enqueue', { queue: 'work', payload: { during: written } });
        written++;
      }
    })();
    await eventually('its producer writes', () => written > 5);
    await within(30_000, 'install', sluice.admin.install());
    const during = written;
    await eventually('its producer writes on', () => written > during + 5);
    done.abort();
    await writing;

    await sluice.admin.verify();
    await peer.do('verify');
    await peer.do('install');
    expect((await rows()).slice(0, 22)).toEqual(before.messages);
    expect((await rows()).slice(22).map(({ payload }) => payload)).toEqual(
      Array.from({ length: written }, (_, n) => ({ during: n })),
    );
    const after = await state();
    // verify() of pgqrs leaves a worker row each time.
    expect(after[1]).toEqual(expect.arrayContaining(withWriter[1]!));
    for (const table of [0, 2, 3, 4]) expect(after[table]).toEqual(withWriter[table]);

    const indexes = await pool.query<{ name: string }>(
      `select indexname as name from pg_indexes where schemaname = '${schema}' and tablename = 'pgqrs_messages' order by 1`,
    );
    expect(indexes.rows.map(({ name }) => name)).toEqual(['pgqrs_messages_pkey', 'sluice_messages_due']);
    const keys = await pool.query(
      `select conname from pg_constraint where contype = 'f' and '${schema}.pgqrs_messages'::regclass in (conrelid, confrelid)`,
    );
    expect(keys.rows).toEqual([]);

    // The run still keeps its message, and leases and archive are as they were for both sides.
    await expect(sluice.admin.purgeQueue('flow')).rejects.toMatchObject({ sqlState: '23503' });
    expect(run).toBeGreaterThan(0);
    expect(await peer.do('archive', { queue: 'work', id: leased[1]!.id })).toBe(true);
    const consumer = await sluice.consumer('work');
    const next = await consumer.dequeue<{ n: number }>();
    expect(next!.payload.n).toBe(5);
  });

  test('starts anew where we have been uninstalled, and we over it again', async () => {
    const { peer, sluice, pool, schema } = await both();
    await sluice.admin.install();
    await sluice.admin.uninstall();
    await peer.do('install');
    await peer.do('verify');
    await sluice.admin.install();
    await sluice.admin.verify();
    await sluice.admin.uninstall();
    const left = await pool.query(`
      select relname as name from pg_class where relnamespace = '${schema}'::regnamespace
      union all select typname from pg_type where typnamespace = '${schema}'::regnamespace
      union all select proname from pg_proc where pronamespace = '${schema}'::regnamespace`);
    expect(left.rows).toEqual([]);
  });
});
