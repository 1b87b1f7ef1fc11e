import { TimeoutError } from './errors/index.js';

/** A promise that is settled from outside. (`Promise.withResolvers` needs Node 22.) */
export interface Deferred<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (reason: Error) => void;
}

export function deferred<T = void>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: Error) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  // Nobody may be waiting when it is rejected; whoever waits later still sees the rejection.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}

/** Waits for `promise`, but rejects with the signal's reason as soon as it aborts. */
export async function orAbort<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  // After an abort nobody waits for it any more: it may still reject.
  promise.catch(() => undefined);
  signal.throwIfAborted();
  const aborted = deferred<never>();
  const onAbort = () => aborted.reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Rejects with a TimeoutError when `promise` is not settled after `ms`. */
export async function withDeadline<T>(what: string, ms: number, promise: Promise<T>): Promise<T> {
  const late = deferred<never>();
  const timer = setTimeout(() => late.reject(new TimeoutError(what, ms)), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until `promise` is settled, but not for longer than `ms`. Never rejects. */
export async function settledWithin(ms: number, promise: Promise<unknown>): Promise<void> {
  await withDeadline('', ms, promise).catch(() => undefined);
}
