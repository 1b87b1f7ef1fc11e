import { Readable } from 'node:stream';
import * as check from '../check.js';
import { IngestError } from '../errors/index.js';

export type Items<T> = Iterable<T> | AsyncIterable<T>;

/** Items, or what opens them behind a position; undefined stands for their beginning. */
export type IngestSource<T> = Items<T> | OpenItems<T>;
type OpenItems<T> = (position: string | undefined) => Items<T> | Promise<Items<T>>;

export function checkItems<T>(source: Items<T>): Items<T> {
  const rule = 'an iterable or an async iterable (a string is none here: split it)';
  return check.kind('source', source, rule, isIterable);
}

function isIterable(value: unknown): value is Items<never> {
  if (typeof value !== 'object' || value === null) return false;
  return Symbol.iterator in value || Symbol.asyncIterator in value;
}

/** The items that the caller's function opens. @throws {IngestError | InvalidOptionError} */
export async function openItems<T>(open: OpenItems<T>, position: string | undefined): Promise<Items<T>> {
  let items;
  try {
    items = await open(position);
  } catch (error) {
    throw new IngestError(error);
  }
  return checkItems(items);
}

type Next<T> = IteratorResult<T, unknown>;

/** Reads items one at a time. What their iterator throws becomes an IngestError. */
export class SourceReader<T> {
  readonly #iterator: Iterator<T> | AsyncIterator<T>;
  readonly #isAsync: boolean;
  /** The iterator has ended or thrown: there is nothing to let go of. */
  #over = false;

  constructor(private readonly items: Items<T>) {
    try {
      this.#isAsync = Symbol.asyncIterator in items;
      this.#iterator =
        Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
    } catch (error) {
      throw new IngestError(error);
    }
  }

  /** The next item, at once where it is there: to await every one would cost a fifth of the rate. */
  next(): Next<T> | Promise<Next<T>> {
    return this.#isAsync ? this.#nextLater() : this.#nextNow();
  }

  /** Tells items that were not read to their end that they may go. Nobody waits for that: they may hang in one. */
  letGo(): void {
    if (this.#over) return;
    this.#over = true;
    if (this.items instanceof Readable) this.items.destroy();
    else void (async () => this.#iterator.return?.())().catch(() => undefined);
  }

  #nextNow(): Next<T> | Promise<Next<T>> {
    let next;
    try {
      next = this.#iterator.next() as Next<T | PromiseLike<T>>;
    } catch (error) {
      throw this.#broken(error);
    }
    if (next.done) this.#over = true;
    else if (isThenable(next.value)) return promised(next.value);
    return next as Next<T>;
  }

  async #nextLater(): Promise<Next<T>> {
    try {
      const next = await this.#iterator.next();
      if (next.done) this.#over = true;
      return next;
    } catch (error) {
      throw this.#broken(error);
    }
  }

  #broken(error: unknown): IngestError {
    this.#over = true;
    return new IngestError(error);
  }
}

function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return (
    typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
  );
}

/** An iterable of promises is one of what they promise. */
async function promised<T>(value: PromiseLike<T>): Promise<Next<T>> {
  try {
    return { value: await value, done: false };
  } catch (error) {
    throw new IngestError(error);
  }
}
