import { expect } from 'vitest';
import type { Consumer, Handler, Message, RunOptions, RunSummary } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, type Scenario } from '../support/scenario.js';

export interface Item {
  n: number;
}

/** For a consumer that is told of everything: it never polls, and beats only by hand. */
export const PATIENT = { pollIntervalMs: 3_600_000, heartbeatIntervalSeconds: 3_600 };

/** Puts messages 0, 1, 2, ... into the queue. */
export async function enqueue(s: Scenario, count: number, from = 0): Promise<void> {
  await (await s.producer()).ingest(numbered(count, from));
}

export interface Stored {
  id: string;
  n: number;
  readCount: number;
  consumer: string | null;
  archived: boolean;
  /** Seconds until it is due. */
  due: number;
  /** Seconds from its first delivery to the end of its lease. */
  lease: number;
}

/** What the table holds, by `n`. */
export async function stored({ pool, schema }: Scenario): Promise<Stored[]> {
  const { rows } = await pool.query<Stored>(
    `select id::text, (payload->>'n')::int as n, read_ct as "readCount", consumer_worker_id::text as consumer,
       archived_at is not null as archived, extract(epoch from vt - now())::float8 as due,
       extract(epoch from vt - dequeued_at)::float8 as lease
     from ${schema}.pgqrs_messages order by n`,
  );
  return rows;
}

/** Messages that somebody holds. */
export async function leased(s: Scenario): Promise<number> {
  return (await stored(s)).filter(({ consumer, archived }) => consumer !== null && !archived).length;
}

/** Messages that are neither archived nor deleted. */
export async function open(s: Scenario): Promise<number> {
  return (await stored(s)).filter(({ archived }) => !archived).length;
}

export interface Dead {
  messageId: string;
  queueId: string;
  reason: string;
  lastError: string | null;
  attempts: number;
  /** Whether it died within the last minute. */
  now: boolean;
}

/** The table of dead letters, by message. */
export async function dead({ pool, schema }: Scenario): Promise<Dead[]> {
  const { rows } = await pool.query<Dead>(
    `select message_id::text as "messageId", queue_id::text as "queueId", reason, last_error as "lastError", attempts,
       now() - dead_at between interval '0' and interval '1 minute' as now
     from ${schema}.sluice_failures order by message_id`,
  );
  return rows;
}

/** The rest of the columns of every message. */
export async function change({ pool, schema }: Scenario, set: string, where = 'true'): Promise<void> {
  await pool.query(`update ${schema}.pgqrs_messages set ${set} where ${where}`);
}

export interface Running {
  ended: Promise<RunSummary>;
  /** Ends the run in order. */
  stop: () => Promise<RunSummary>;
}

/** A run of `consumer` that the test ends. */
export function running(consumer: Consumer, handler: Handler<Item>, options: RunOptions = {}): Running {
  return ending((signal) => consumer.run<Item>(handler, { signal, ...options }));
}

/** Any run that takes a signal. */
export function ending(start: (signal: AbortSignal) => Promise<RunSummary>): Running {
  const controller = new AbortController();
  const ended = start(controller.signal);
  ended.catch(() => undefined);
  return {
    ended,
    stop: () => {
      controller.abort();
      return within(15_000, 'the end of the run', ended);
    },
  };
}

/** Runs `handler` until no message is left. */
export async function runToEnd(
  s: Scenario,
  consumer: Consumer,
  handler: Handler<Item>,
  options?: RunOptions,
): Promise<RunSummary> {
  const run = running(consumer, handler, options);
  await eventually('all to be settled', async () => (await open(s)) === 0, 20_000);
  return run.stop();
}

export function summary(of: Partial<RunSummary>): RunSummary {
  return { done: 0, retried: 0, dead: 0, lost: 0, released: 0, ...of };
}

export const ns = (messages: readonly Message[]) =>
  messages.map(({ payload }) => (payload as { n: number }).n);

/** A number within limits; a busy machine may be late by some seconds. */
export function expectBetween(value: number, low: number, high: number): void {
  expect(value).toBeGreaterThan(low - 5);
  expect(value).toBeLessThanOrEqual(high + 0.001);
}
