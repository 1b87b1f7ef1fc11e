import { types } from 'node:util';
import { SluiceError } from './base.js';
import { IngestError } from './stream.js';

/**
 * What was thrown, as an error to end a stream with. One of ours may be shared (by all who wait for the same thing), so
 * it becomes one that nobody else holds and that can be told how far the stream came. A foreign one stays as it is, and
 * what is no error at all becomes one.
 */
export function ownError(thrown: unknown): Error {
  const error = asError(thrown);
  return error instanceof SluiceError ? copyOf(error) : error;
}

/** Whatever was thrown, as an Error: a stream ends without a word when it is destroyed with null. */
export function asError(thrown: unknown): Error {
  return isError(thrown) ? thrown : new IngestError(thrown);
}

/** Not a Proxy: whatever asks it for anything may be thrown at. */
export function isError(thrown: unknown): thrown is Error {
  try {
    return !types.isProxy(thrown) && thrown instanceof Error;
  } catch {
    return false;
  }
}

/** With the class, the message, the stack and all fields, but for `progress`. */
function copyOf(error: SluiceError): Error {
  const copy = new Error(error.message);
  Object.setPrototypeOf(copy, Object.getPrototypeOf(error) as object);
  const fields = Object.getOwnPropertyDescriptors(error);
  delete fields.progress;
  // Node 24 keeps the stack behind an accessor, which would answer with the copy's own.
  const stack = { value: error.stack, writable: true, configurable: true };
  return Object.defineProperties(copy, { ...fields, stack });
}

/** What was thrown; an error in the place of what cannot be asked what it is, such as a proxy whose traps throw. */
export function recognisable(thrown: unknown): unknown {
  try {
    Object.getPrototypeOf(Object(thrown)); // as instanceof does
    return thrown;
  } catch {
    return new Error('something was thrown that throws when it is looked at');
  }
}
