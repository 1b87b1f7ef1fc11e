import { addAbortSignal, type Stream } from 'node:stream';

/**
 * Destroys `stream` with an AbortError, whose cause is the signal's reason, when the signal aborts. One that has
 * aborted before takes effect a tick later: Node 24 refuses to pipe into a stream that is destroyed already, and its
 * error would reach nobody.
 */
export function endOnAbort<S extends Stream>(signal: AbortSignal | undefined, stream: S): S {
  if (signal?.aborted) process.nextTick(addAbortSignal, signal, stream);
  else if (signal) addAbortSignal(signal, stream);
  return stream;
}
