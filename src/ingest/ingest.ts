import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { IngestStats, ProducerStream } from '../../streams/producer-stream.js';
import * as check from '../check.js';
import { orAbort } from '../deferred.js';
import { ClosedError, ResumePositionError, StreamRegressedError } from '../errors/index.js';
import { checkPosition, checkResume, type Resume, type ResumeOptions } from './resume.js';

export type Items<T> = Iterable<T> | AsyncIterable<T>;

/** Items, or what opens them behind a position; undefined stands for their beginning. */
export type IngestSource<T> = Items<T> | ((position: string | undefined) => Items<T> | Promise<Items<T>>);

/** Takes a source into the queue; a source that can be opened again survives that the server loses confirmed commits. */
export async function ingest<T>(
  open: () => ProducerStream<T>,
  source: IngestSource<T>,
  resume: Resume<T> | undefined,
): Promise<IngestStats> {
  if (typeof source !== 'function') checkItems(source);
  const canGoOn = typeof source === 'function' && resume !== undefined;
  for (;;) {
    try {
      return await ingestOnce(open(), source, resume);
    } catch (error) {
      if (!(error instanceof StreamRegressedError && canGoOn)) throw error;
    }
  }
}

async function ingestOnce<T>(
  stream: ProducerStream<T>,
  source: IngestSource<T>,
  resume: Resume<T> | undefined,
): Promise<IngestStats> {
  stream.on('error', () => undefined); // it is told by the pipeline, once there is one
  const ended = new AbortController();
  stream.once('close', () => ended.abort(stream.errored ?? undefined));
  let unread = typeof source === 'function' ? undefined : source;
  try {
    const position = await stream.resumeFrom;
    unread ??= await openBehind(source, position, ended.signal);
    // It may have ended meanwhile; and what is destroyed cannot be piped into.
    if (stream.destroyed) throw stream.errored ?? new ClosedError('the stream');
    const items = typeof source === 'function' ? unread : itemsBehind(stream, unread, position, resume);
    unread = undefined;
    await pipeline(items instanceof Readable ? items : Readable.from(items), stream);
    return stream.stats;
  } catch (error) {
    stream.destroy();
    if (unread) close(unread);
    throw error;
  } finally {
    // pipeline() does not wait for it when the source fails.
    if (!stream.closed) await once(stream, 'close');
  }
}

/** Opens a source where it has to go on. One that is opened only when the stream has ended is closed again. */
async function openBehind<T>(
  source: IngestSource<T>,
  position: string | undefined,
  ended: AbortSignal,
): Promise<Items<T>> {
  if (typeof source !== 'function') return source;
  const opening = (async () => checkItems(await source(position)))();
  try {
    return await orAbort(opening, ended);
  } catch (error) {
    opening.then(close, () => undefined);
    throw error;
  }
}

/** What of the source has not been ingested by an earlier run. */
function itemsBehind<T>(
  stream: ProducerStream<T>,
  source: Items<T>,
  position: string | undefined,
  resume: Resume<T> | undefined,
): Items<T> {
  const options = checkResume(resume);
  return options && position !== undefined ? skipTo(stream, source, position, options) : source;
}

/** Reads over what is in already: that many items, or up to the one at that position. */
async function* skipTo<T>(
  stream: ProducerStream<T>,
  source: Items<T>,
  behind: string,
  { name, position = (_item, index) => index + 1 }: ResumeOptions<T>,
): AsyncGenerator<T> {
  let index = 0;
  let found = false;
  for await (const item of source) {
    if (found) {
      yield item;
      continue;
    }
    found = checkPosition(position(item, index), index) === behind;
    index++;
    if (found) stream.beginAt(index);
  }
  if (!found) throw new ResumePositionError(name, behind, index);
}

function checkItems<T>(source: Items<T>): Items<T> {
  return check.kind(
    'source',
    source,
    'an iterable or an async iterable (a string is none here: split it)',
    isIterable,
  );
}

function isIterable(value: unknown): value is Items<never> {
  if (typeof value !== 'object' || value === null) return false;
  return Symbol.iterator in value || Symbol.asyncIterator in value;
}

/** Lets go of a source that nobody has begun to read. Whether it can is its own business. */
function close(source: Items<unknown>): void {
  if (source instanceof Readable) source.destroy();
  else {
    const iterator =
      Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
    // Not awaited: a source may hang.
    void (async () => iterator.return?.())().catch(() => undefined);
  }
}
