import type { CallersClient, Db, Queryable, Session } from '../db.js';
import {
  AmbiguousEnqueueError,
  DatabaseError,
  InvalidOptionError,
  PayloadInvalidError,
} from '../errors/index.js';
import { isAnswer } from '../errors/answer.js';
import { onClient } from '../on-client.js';
import { isTransient, retrying, type RetryOptions } from '../retrying.js';
import * as sql from '../sql/enqueue.js';
import { RAISED } from '../sql/statement.js';
import { type Incarnation, selectWorker } from '../sql/workers.js';
import type { Id } from '../types.js';
import { Call, type OutgoingRow, type Outcome } from './call.js';
import { Coalescer } from '../coalescer.js';
import { findRefused, isFaultOfTheData } from './find-refused.js';
import { jsonbArrayOf } from './jsonb-array.js';

export interface EnqueueTarget {
  db: Db;
  queueId: Id;
  worker: Incarnation;
  retry: RetryOptions;
  /** What an error of the server's means for this producer. */
  translate: (error: unknown) => unknown;
  /** Called after each commit. */
  onCommit: () => void;
  /** From its abort on answers are waited for briefly, and nothing is tried again. */
  hurry: AbortSignal;
}

/** Longest time for a call, its retries included. */
const CALL_MS = 30_000;
const HURRIED_MS = 5_000;

/**
 * Puts the rows of single calls into the queue. Calls of one row share statements; one of several rows has its own.
 *
 * A statement is sent again only where it certainly did not run: no connection could be had, or the server answered
 * that it failed for a passing reason. When no answer comes at all nobody knows, and the call says so, unless its rows
 * have keys that keep them from being in twice.
 */
export class EnqueueSink {
  readonly #singles = new Coalescer<Call>((calls) => this.#settle(calls));
  readonly #underWay = new Set<Promise<void>>();

  constructor(private readonly target: EnqueueTarget) {}

  /** The rows of one call, all or none: one in a statement that it may share with others, several in one of their own. */
  put(rows: readonly OutgoingRow[], signal?: AbortSignal): Promise<Outcome> {
    const call = new Call(rows, signal);
    if (rows.length === 1) this.#singles.add(call);
    else {
      const settling = this.#settle([call]).finally(() => this.#underWay.delete(settling));
      this.#underWay.add(settling);
    }
    return call.stored;
  }

  /** All rows or none, as part of the transaction that the caller's client is in. */
  async within(
    client: CallersClient,
    rows: readonly OutgoingRow[],
    channel: string | null,
  ): Promise<Outcome> {
    try {
      return await this.#insert(this.target.db.on(client), rows, channel);
    } catch (error) {
      if (isFaultOfTheData(error)) throw refusal(undefined, error);
      if (saysGone(error) && (await this.isRegistered())) throw snapshotTooOld();
      throw this.target.translate(error);
    }
  }

  /** Now, whatever the snapshot of a transaction of the caller's says: that may be older than this producer. */
  async isRegistered(): Promise<boolean> {
    return (await selectWorker(this.target.db.urgent, this.target.worker)) !== undefined;
  }

  /** Resolves when no call is waiting or under way. */
  async idle(): Promise<void> {
    await this.#singles.idle();
    await Promise.all(this.#underWay);
  }

  /** Never rejects: each call learns its own outcome. */
  async #settle(calls: readonly Call[]): Promise<void> {
    try {
      await this.#untilAnswered(calls);
    } catch (error) {
      if (!isFaultOfTheData(error)) calls.forEach((call) => call.fail(this.target.translate(error)));
      else if (calls.length === 1) await this.#blame(calls[0] as Call, error);
      else {
        // The bad one fails alone: halves, in the order of the calls.
        const middle = calls.length >> 1;
        await this.#settle(calls.slice(0, middle));
        await this.#settle(calls.slice(middle));
      }
    }
  }

  async #untilAnswered(calls: readonly Call[]): Promise<void> {
    const { retry, hurry } = this.target;
    const wanted = () => calls.filter((call) => !call.settled);
    const passes = (error: unknown) => canBeSentAgain(error, wanted());
    await retrying({ ...retry, withinMs: CALL_MS, hurry, passes }, async (ms) => {
      if (wanted().length > 0) await this.#attempt(wanted(), ms);
    });
  }

  async #attempt(calls: readonly Call[], ms: number): Promise<void> {
    let sent: Call[] = [];
    try {
      const { db, hurry } = this.target;
      const limits = { what: 'enqueueing', ms, signal: hurry, graceMs: HURRIED_MS };
      const rows = await onClient(db, limits, async (session) => {
        // Some may have been taken back while there was no client.
        sent = calls.filter((call) => !call.settled);
        for (const call of sent) call.sent = true;
        return sent.length === 0 ? [] : this.#insert(session, sent.flatMap(rowsOf), null);
      });
      if (sent.length === 0) return;
      this.target.onCommit();
      for (const call of sent) call.succeed(rows.splice(0, call.rows.length));
    } catch (error) {
      if (sent.length > 0 && !isAnswer(error)) throw new AmbiguousEnqueueError({ cause: error });
      for (const call of sent) call.sent = false;
      throw error;
    }
  }

  async #insert(
    on: Queryable | Session,
    rows: readonly OutgoingRow[],
    channel: string | null,
  ): Promise<Outcome> {
    const { queueId, worker } = this.target;
    const sent = withoutRepeats(rows);
    const { ids, atMicros, fresh } = await sql.enqueue(on, {
      queueId,
      worker,
      payloads: jsonbArrayOf(sent),
      dues: sent.map(({ due }) => due),
      once: sent.some(({ once }) => once) ? sent.map(({ once }) => once) : null,
      channel,
    });
    const isIn = new Set(sent.filter(({ once }) => !once || fresh.has(once.key)));
    let at = 0;
    return rows.map((row) => (isIn.has(row) ? { ...row, id: ids[at++] as Id, atMicros } : undefined));
  }

  /** Names the row that the server refused. */
  async #blame(call: Call, error: DatabaseError): Promise<void> {
    const { rows } = call;
    let index = rows.length === 1 ? rows[0]?.index : undefined;
    let cause = error;
    if (rows.length > 1) {
      const insert = (on: Queryable, from: number, to: number) =>
        this.#insert(on, rows.slice(from, to), null);
      const [found] = await findRefused(this.target.db, rows.length, insert, false);
      ({ index, cause } = found ?? { index, cause });
    }
    call.fail(refusal(index, cause));
  }
}

/** The first row of each key; PostgreSQL refuses to take the same one twice in a statement. */
function withoutRepeats(rows: readonly OutgoingRow[]): readonly OutgoingRow[] {
  const seen = new Set<string>();
  return rows.filter(({ once }) => !once || (!seen.has(once.key) && seen.add(once.key)));
}

/** Where no answer came at all, only what a key keeps from being in twice; the other calls learn it at once. */
function canBeSentAgain(error: unknown, calls: readonly Call[]): boolean {
  if (!(error instanceof AmbiguousEnqueueError)) return isTransient(error);
  const once = calls.filter((call) => call.repeatable);
  for (const call of calls) if (!call.repeatable) call.fail(error);
  return once.length > 0;
}

const rowsOf = (call: Call) => call.rows;

function refusal(index: number | undefined, cause: DatabaseError): PayloadInvalidError {
  return new PayloadInvalidError(index, `the server refuses it: ${cause.message}`, { cause });
}

function saysGone(error: unknown): boolean {
  if (!(error instanceof DatabaseError)) return false;
  return error.sqlState === RAISED.workerGone || error.sqlState === RAISED.queueGone;
}

export function snapshotTooOld(): InvalidOptionError {
  return new InvalidOptionError(
    'client',
    'in a transaction that sees this producer',
    'one at REPEATABLE READ or SERIALIZABLE whose snapshot is older than it',
  );
}
