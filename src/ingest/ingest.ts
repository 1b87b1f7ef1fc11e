import { pipeline, Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { IngestStats } from '../../streams/ingest-stats.js';
import type { ProducerStream } from '../../streams/producer-stream.js';
import { Stint } from '../../streams/stint.js';
import {
  ClosedError,
  IngestError,
  PayloadInvalidError,
  ResumePositionError,
  SluiceError,
  StreamRegressedError,
} from '../errors/index.js';
import { checkPosition, checkResume, type Resume, type ResumeOptions } from './resume.js';
import { checkItems, type IngestSource, type Items, openItems, SourceReader } from './source.js';

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

/** It is over when the stream is closed: the source may hang for ever in the middle of an item. */
async function ingestOnce<T>(
  stream: ProducerStream<T>,
  source: IngestSource<T>,
  resume: Resume<T> | undefined,
): Promise<IngestStats> {
  stream.on('error', () => undefined); // it is thrown below
  const closed = new Promise<void>((resolve) => stream.once('close', resolve));
  pour(source, stream, resume).catch((error: unknown) => stream.fail(error));
  await closed;
  if (stream.writableFinished && !stream.errored) return stream.stats;
  throw failureOf(stream);
}

/** What ended the stream, with how far it came: what the caller's code threw is the cause, and not written to. */
function failureOf({ errored, progress }: ProducerStream<never>): Error {
  if (errored instanceof SluiceError && errored.progress === progress) return errored;
  const failure = errored ? new IngestError(errored) : new ClosedError('the stream');
  return Object.assign(failure, { progress });
}

/** Reads the source into the stream from where that begins, until either of them ends. */
async function pour<T>(
  source: IngestSource<T>,
  stream: ProducerStream<T>,
  resume: Resume<T> | undefined,
): Promise<void> {
  const position = await stream.resumeFrom.catch(() => undefined);
  if (typeof source === 'function') {
    if (!stream.destroyed) await pourItems(await openItems(source, position), stream);
  } else {
    const options = checkResume(resume);
    await pourItems(source, stream, position !== undefined && options && new Skip(position, options));
  }
}

async function pourItems<T>(
  items: Items<T>,
  stream: ProducerStream<T>,
  skip?: Skip<T> | false,
): Promise<void> {
  // Faster than to iterate it.
  if (items instanceof Readable && !skip && !stream.destroyed) {
    pipeline(items, stream, () => undefined);
    return;
  }
  const reader = new SourceReader(items);
  const letGo = () => reader.letGo();
  // It may have ended while the items were opened.
  if (stream.destroyed) {
    letGo();
    return;
  }
  stream.once('close', letGo);
  const stint = new Stint();
  const read = await reader.forEach((item, index) => {
    if (stream.destroyed) return false;
    if (skip && skip.covers(item)) {
      if (skip.found) stream.beginAt(index + 1);
      return stint.isOver(0) ? nextTurn() : true;
    }
    if ((item as unknown) === null)
      throw new PayloadInvalidError(index, 'Node streams carry no bare null: wrap it');
    return stream.write(item) || new Promise<void>((resolve) => stream.once('drain', resolve));
  });
  if (!read) return;
  if (skip) skip.assertFound();
  stream.end();
}

/** What an earlier run has taken already: that many items, or up to the one at that position. */
class Skip<T> {
  found = false;
  #items = 0;

  constructor(
    private readonly behind: string,
    private readonly options: ResumeOptions<T>,
  ) {}

  covers(item: T): boolean {
    if (this.found) return false;
    const index = this.#items++;
    const { position = () => index + 1 } = this.options;
    this.found = checkPosition(position(item, index), index) === this.behind;
    return true;
  }

  assertFound(): void {
    if (!this.found) throw new ResumePositionError(this.options.name, this.behind, this.#items);
  }
}
