import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import pg from 'pg';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { Db } from '../src/db.js';
import { Listener, type ListenerOptions } from '../src/listener.js';
import { databaseUrl } from './support/database.js';
import { eventually, within } from './support/eventually.js';
import { type Proxy, startProxy } from './support/proxy.js';

interface Setup {
  listener: Listener;
  proxy: Proxy;
  /** Events so far, in order. */
  events: string[];
  notify: (channel: string, payload?: string) => Promise<void>;
  /** Connections of the listener that the server knows. */
  backends: () => Promise<number[]>;
}

const warnings: Error[] = [];
process.on('warning', (warning) => warnings.push(warning));
afterAll(() => expect(warnings).toEqual([]));

/** A listener behind a proxy; everything else goes to the server directly. */
async function setup(options: ListenerOptions = {}): Promise<Setup> {
  const proxy = await startProxy(databaseUrl());
  const name = `listener-${randomUUID()}`;
  const db = Db.open(databaseUrl(), { schema: 'public', maxConnections: 2, connectTimeoutMs: 5_000 });
  const listener = new Listener(db, {
    connection: { connectionString: proxy.url, application_name: name },
    ...options,
  });
  const pool = new pg.Pool({ connectionString: databaseUrl() });
  const events: string[] = [];
  listener.on('listening', () => events.push('listening')).on('deaf', () => events.push('deaf'));
  onTestFinished(async () => {
    await within(3_000, 'close', listener.close());
    await db.close();
    await pool.end();
    await proxy[Symbol.asyncDispose]();
  });
  return {
    listener,
    proxy,
    events,
    notify: async (channel, payload = '') => {
      await pool.query('select pg_notify($1, $2)', [channel, payload]);
    },
    backends: async () => {
      const { rows } = await pool.query<{ pid: number }>(
        'select pid from pg_stat_activity where application_name = $1',
        [name],
      );
      return rows.map(({ pid }) => pid);
    },
  };
}

const channel = () => `test_${randomUUID()}`;

/** A subscription that counts its wakes. */
function subscribed(listener: Listener, name = channel()) {
  const counter = { name, wakes: 0 };
  const unsubscribe = listener.subscribe(name, () => counter.wakes++);
  return Object.assign(counter, { unsubscribe });
}

test('a notification wakes those who subscribed to its channel, and nobody else', async () => {
  const { listener, notify } = await setup();
  const one = subscribed(listener);
  await once(listener, 'listening');
  const two = subscribed(listener);
  const three = subscribed(listener, two.name);
  await eventually('the wake after LISTEN', () => two.wakes > 0);
  const [before, others] = [two.wakes, one.wakes];
  await notify(two.name);
  await eventually('the wake', () => two.wakes > before && three.wakes > 0);
  expect(one.wakes).toBe(others);
  two.unsubscribe();
  const woken = three.wakes;
  await notify(two.name);
  await eventually('the wake of who stayed', () => three.wakes > woken);
  expect(two.wakes).toBe(before + 1);
});

test('any text on a channel is a wake, and harmless', async () => {
  const { listener, notify, events } = await setup({ probeIntervalMs: 20 });
  const one = subscribed(listener);
  await once(listener, 'listening');
  const payloads = ['{"half', 'null', '\\x00', "'; drop table x; --", 'ü✓'.repeat(1_000), '{}'];
  for (const payload of payloads) {
    const before = one.wakes;
    await notify(one.name, payload);
    await eventually('a wake', () => one.wakes > before);
  }
  expect(events).toEqual(['listening']);
});

test('subscriptions made at any moment of the opening are heard', async () => {
  const { listener, proxy, notify } = await setup();
  const all = [subscribed(listener)];
  let open = false;
  proxy.judge = () => {
    if (!open && all.length < 30) all.push(subscribed(listener));
    return 'pass';
  };
  await once(listener, 'listening');
  for (let turn = 0; turn < 5; turn++) {
    all.push(subscribed(listener));
    await new Promise((resolve) => setImmediate(resolve));
  }
  open = true;
  expect(all.length).toBeGreaterThan(10);
  await eventually('the wake after LISTEN', () => all.every(({ wakes }) => wakes > 0));
  for (const one of all) {
    const before = one.wakes;
    await notify(one.name);
    await eventually('a wake', () => one.wakes > before);
  }
});

test('a killed backend is replaced, again and again, and everybody woken to catch up', async () => {
  const { listener, backends, notify, events } = await setup();
  const one = subscribed(listener);
  await once(listener, 'listening');
  const pool = new pg.Pool({ connectionString: databaseUrl() });
  for (let n = 1; n <= 8; n++) {
    const [pid] = await backends();
    const before = one.wakes;
    const listening = once(listener, 'listening');
    await pool.query('select pg_terminate_backend($1)', [pid]);
    await within(5_000, 'listening again', listening);
    await eventually('the catch-up', () => one.wakes > before);
    const woken = one.wakes;
    await notify(one.name);
    await eventually('a wake', () => one.wakes > woken);
  }
  await pool.end();
  expect(await backends()).toHaveLength(1);
  expect(events.slice(0, 5)).toEqual(['listening', 'deaf', 'listening', 'deaf', 'listening']);
});

test('after an outage of more than five seconds it listens again', async () => {
  const { listener, proxy, notify, events } = await setup();
  const one = subscribed(listener);
  await once(listener, 'listening');
  proxy.door = 'shut';
  proxy.cutAll();
  await once(listener, 'deaf');
  const from = performance.now();
  await eventually('five seconds', () => performance.now() - from > 5_100);
  expect(events).toEqual(['listening', 'deaf']);
  proxy.door = 'open';
  await within(12_000, 'listening again', once(listener, 'listening'));
  const before = one.wakes;
  await notify(one.name);
  await eventually('a wake', () => one.wakes > before);
});

test('a half-open connection is noticed and replaced', async () => {
  const { listener, proxy, notify, events } = await setup({
    probeIntervalMs: 50,
    probeTimeoutMs: 200,
  });
  const one = subscribed(listener);
  await once(listener, 'listening');
  for (const link of proxy.links) link.hole();
  await within(3_000, 'noticing', once(listener, 'deaf'));
  await within(5_000, 'listening again', once(listener, 'listening'));
  const before = one.wakes;
  await notify(one.name);
  await eventually('a wake', () => one.wakes > before);
  expect(events).toEqual(['listening', 'deaf', 'listening']);
  await eventually('the old connection is gone', () => proxy.links.size === 1);
});

test('a new connection that stays silent is given up', async () => {
  const { listener, proxy } = await setup({ probeTimeoutMs: 300 });
  proxy.door = 'hole';
  subscribed(listener);
  await within(2_000, 'giving up', once(listener, 'deaf'));
  proxy.door = 'open';
  await within(5_000, 'listening', once(listener, 'listening'));
});

test('where notifications are swallowed it says once that it is deaf, and goes on trying', async () => {
  const { listener, proxy, events } = await setup({ probeTimeoutMs: 100 });
  let swallowed = 0;
  proxy.judge = ({ from, data }) => {
    if (from !== 'server' || !data.includes('sluice_probe_')) return 'pass';
    swallowed++;
    return 'drop';
  };
  subscribed(listener);
  const [reason] = (await within(5_000, 'deafness', once(listener, 'deaf'))) as [Error];
  expect(reason.message).toBe('hearing a NOTIFY of our own took longer than 100 ms');
  await eventually('a second try', () => swallowed >= 2);
  expect(events).toEqual(['deaf']);
  proxy.judge = () => 'pass';
  await within(12_000, 'listening', once(listener, 'listening'));
});

test('a NOTIFY that cannot be sent says nothing about what can be heard', async () => {
  const { listener, proxy, events, notify } = await setup({ probeIntervalMs: 30 });
  const one = subscribed(listener);
  await once(listener, 'listening');
  const db = (listener as unknown as { db: { urgent: { query: unknown } } }).db;
  const query = db.urgent.query;
  let failures = 0;
  db.urgent.query = () => Promise.reject(new Error(`not sent ${++failures}`));
  await eventually('three failures', () => failures >= 3);
  db.urgent.query = query;
  const before = one.wakes;
  await notify(one.name);
  await eventually('a wake', () => one.wakes > before);
  expect(events).toEqual(['listening']);
  expect(proxy.links.size).toBe(1);
});

test.each(['connecting', 'backing off', 'probing', 'listening', 'idle'] as const)(
  'close() while %s is prompt, twice, and leaves no connection',
  async (state) => {
    const { listener, proxy, backends, events } = await setup({ probeTimeoutMs: 60_000 });
    if (state === 'connecting') proxy.door = 'hole';
    if (state === 'backing off') proxy.door = 'shut';
    let probed = false;
    if (state === 'probing')
      proxy.judge = ({ from, data }) => {
        probed ||= from === 'server' && data.includes('sluice_probe_');
        return probed ? 'drop' : 'pass';
      };
    if (state !== 'idle') subscribed(listener);
    if (state === 'backing off') await once(listener, 'deaf');
    if (state === 'probing') await eventually('a probe', () => probed);
    if (state === 'listening') await once(listener, 'listening');
    const before = events.length;
    await within(1_500, 'close', Promise.all([listener.close(), listener.close()]));
    await listener.close();
    expect(events.length).toBe(before);
    proxy.door = 'open';
    proxy.judge = () => 'pass';
    subscribed(listener); // too late: it stays closed
    await eventually('no backend', async () => (await backends()).length === 0);
  },
);
