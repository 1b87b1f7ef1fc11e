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

/** Reads items one by one. What their iterator throws becomes an IngestError. */
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

  /**
   * Resolves when there are no more items, or with false when no more were wanted.
   * @param take gets each item and its place; answers false to end it, or a promise to have the next one wait
   */
  async forEach(take: (item: T, index: number) => Promise<unknown> | boolean): Promise<boolean> {
    for (let index = 0; ; index++) {
      let next;
      try {
        // What is there already is not awaited: that would cost a fifth of the rate.
        next = this.#isAsync ? await this.#iterator.next() : (this.#iterator.next() as Next<T>);
      } catch (error) {
        this.#over = true;
        throw new IngestError(error);
      }
      if (next.done) {
        this.#over = true;
        return true;
      }
      const taken = take(isThenable(next.value) ? await promised(next.value) : next.value, index);
      if (taken === false) return false;
      if (taken !== true) await taken;
    }
  }

  /** Tells items that were not read to their end that they may go. Nobody waits for that: they may hang in one. */
  letGo(): void {
    if (this.#over) return;
    this.#over = true;
    if (this.items instanceof Readable) this.items.destroy();
    else void (async () => this.#iterator.return?.())().catch(() => undefined);
  }
}

function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return (
    typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
  );
}

/** An iterable of promises is one of what they promise. */
async function promised<T>(value: PromiseLike<T>): Promise<T> {
  try {
    return await value;
  } catch (error) {
    throw new IngestError(error);
  }
}
