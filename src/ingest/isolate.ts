import type { Db, Queryable, Session } from '../db.js';
import { PayloadInvalidError, SluiceError, TimeoutError } from '../errors/index.js';
import { onClient } from '../on-client.js';
import { retrying, type RetryOptions } from '../retrying.js';
import * as sql from '../sql/batches.js';
import type { Incarnation } from '../sql/workers.js';
import type { Id } from '../types.js';
import type { Batch } from './batch.js';
import { lookThrough, type Refused } from './find-refused.js';
import type { Rejected } from './rejects.js';

export interface IsolateTarget {
  db: Db;
  queueId: Id;
  worker: Incarnation;
  retry: RetryOptions;
  /** Aborts when the stream ends. */
  signal: AbortSignal;
}

const WITHIN_MS = 30_000;
/** What has been found by then is taken out, and the batch tried again: there may be thousands of them. */
const ENOUGH_MS = 10_000;

/**
 * Takes the rows out of a batch that the server refuses, one after the other, so that the others can be sent again.
 * @param all whether to go on after the first one
 * @returns the rows that were taken out, as errors; none when the server refuses none of them this time
 */
export async function isolate(
  target: IsolateTarget,
  batch: Batch,
  all: boolean,
): Promise<PayloadInvalidError[]> {
  const { rows } = batch;
  const refused = await find(target, batch, all);
  const bad = new Set(refused.map(({ index }) => index));
  const errors = refused.map(
    ({ index, cause }) =>
      new PayloadInvalidError(rows.indexes[index], `the server refuses it: ${cause.message}`, { cause }),
  );
  const rejects: Rejected[] = errors.map(({ index = 0, code, reason }, at) => ({
    reject: { index, code, reason, text: rows.json(refused[at]?.index ?? 0) },
    reported: false,
  }));
  batch.rejects.push(...rejects);
  batch.rejects.sort((a, b) => a.reject.index - b.reject.index);
  batch.rows = rows.pick([...rows.indexes.keys()].filter((row) => !bad.has(row)));
  return errors;
}

function find(
  { db, queueId, worker, retry, signal }: IsolateTarget,
  { rows, method, transaction }: Batch,
  all: boolean,
): Promise<Refused[]> {
  rows.stampVt(BigInt(transaction?.startedAtMicros ?? 0));
  const put = async (session: Session, on: Queryable, from: number, to: number) => {
    if (method === 'copy') await sql.copyMessages(session, rows.withVt, rows.copyPart(from, to), to - from);
    else {
      const delays = rows.withVt ? rows.delays.slice(from, to) : null;
      await sql.insertMessages(on, queueId, worker.id, rows.payloadArray(from, to), delays, to - from);
    }
  };
  return retrying({ ...retry, withinMs: WITHIN_MS, signal }, (ms) =>
    onClient(db, { what: 'finding refused rows', ms, signal }, (session) =>
      lookThrough(session, rows.count, {
        insert: (on, from, to) => put(session, on, from, to),
        all,
        enoughMs: ENOUGH_MS,
      }),
    ),
  ).catch((error: unknown) => {
    // Who cannot reach the server is told so; else what the server said of the batch tells more.
    const away = error instanceof SluiceError && error.transient && !(error instanceof TimeoutError);
    if (away || signal.aborted) throw error;
    return [];
  });
}
