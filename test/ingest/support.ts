import { expect, onTestFinished } from 'vitest';
import { connect, type Producer, type Sluice } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { type Proxy, startProxy } from '../support/proxy.js';
import { scenario, type Scenario } from '../support/scenario.js';

export interface Events {
  finish: number;
  close: number;
  error: number;
  /** The last error. */
  reason: (Error & { code?: string; progress?: { committed: number; position: string } }) | undefined;
}

/** Counts the ways out of a stream. */
export function counted(stream: NodeJS.EventEmitter): Events {
  const events: Events = { finish: 0, close: 0, error: 0, reason: undefined };
  stream.on('finish', () => events.finish++);
  stream.on('close', () => events.close++);
  stream.on('error', (error: Events['reason']) => {
    events.error++;
    events.reason = error;
  });
  return events;
}

export async function closed(stream: NodeJS.EventEmitter & { readonly closed: boolean }): Promise<void> {
  if (stream.closed)
    await new Promise(setImmediate); // or it may not have said so yet
  else await within(20_000, 'the stream', new Promise((resolve) => stream.once('close', resolve)));
}

/** No client of the pool is held, and no ledger row is left. */
export async function expectNothingLeft(test: Scenario, sluice: Sluice = test.sluice): Promise<void> {
  const { pool } = sluice.admin;
  await eventually('the pool to be whole again', () => pool.totalCount === pool.idleCount);
  expect(pool.waitingCount).toBe(0);
  expect(await ledger(test)).toEqual([]);
}

export async function ledger(test: Scenario): Promise<{ name: string; seq: number; position: string }[]> {
  const { rows } = await test.pool.query<{ name: string; seq: number; position: string }>(
    `select name, seq::int, position from ${test.schema}.sluice_streams`,
  );
  return rows;
}

export interface BehindProxy extends Scenario {
  proxy: Proxy;
  /** Connected through the proxy, as `through` is; `sluice` and `pool` are not. */
  sluiceThrough: Sluice;
  through: Producer;
}

type Settings = Parameters<typeof scenario>[0];

/** A scenario with a producer that reaches the server through a proxy. */
export async function behindProxy(settings: Settings = {}): Promise<BehindProxy> {
  const test = await scenario();
  const proxy = await startProxy(test.url);
  const sluiceThrough = await connect({
    dsn: proxy.url,
    schema: test.schema,
    connectionTimeoutSeconds: 2,
    ...settings,
  });
  onTestFinished(async () => {
    proxy.judge = () => 'pass';
    proxy.door = 'open';
    proxy.cutAll();
    await within(30_000, 'closing', sluiceThrough.close()).catch(() => undefined);
    await proxy[Symbol.asyncDispose]();
  });
  const through = await sluiceThrough.producer('work');
  return { ...test, proxy, sluiceThrough, through };
}

export const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n);
