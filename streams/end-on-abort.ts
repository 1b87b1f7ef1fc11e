import type { Stream } from 'node:stream';
import { AbortError } from '../src/errors/index.js';
import { onAbort } from '../src/on-abort.js';

/**
 * Ends `stream` with an AbortError, whose cause is the signal's reason, when the signal aborts. One that has aborted
 * before takes effect a tick later: Node 24 refuses to pipe into a stream that is destroyed already, and its error
 * would reach nobody.
 * @param end how it is ended, where that is not by destroy()
 */
export function endOnAbort<S extends Stream & { destroy(error: Error): unknown }>(
  signal: AbortSignal | undefined,
  stream: S,
  end: (error: AbortError) => void = (error) => stream.destroy(error),
): S {
  if (!signal) return stream;
  const abort = () => end(new AbortError({ cause: signal.reason }));
  if (signal.aborted) process.nextTick(abort);
  else stream.once('close', onAbort(signal, abort));
  return stream;
}
