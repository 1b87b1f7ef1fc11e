import type { CommittedBatch, FillingBatch } from '../../streams/sink.js';
import { PayloadInvalidError } from '../errors/index.js';
import { Batch } from './batch.js';
import { checkKey } from './dedupe-options.js';
import { checkDelay } from './delay.js';
import { type Rejected, Rejects } from './rejects.js';
import { checkPosition, type ResumeOptions } from './resume.js';
import type { Rows } from './rows.js';

export interface IntakeOptions<T> {
  delaySeconds: number | ((item: T) => number);
  resume: ResumeOptions<T> | undefined;
  rejects: Rejects | undefined;
  /** Key of an item, that keeps its like out of the queue; undefined for an item that has none. */
  dedupeKey: ((item: T) => string | undefined) | undefined;
}

/** A batch that takes items: what of them becomes a row, what is rejected, and where they end. */
export class Intake<T> implements FillingBatch<T> {
  /** Items so far: rows and rejects. */
  count = 0;
  readonly #rejects: Rejected[] = [];
  /** Rejects wait for their batch like rows, and in its bounds. */
  #rejectedBytes = 0;
  #keyBytes = 0;
  #position = '';
  /** Of the item that came last, which is asked for once: it may be taken first, and then refused. */
  readonly #asked = { index: -1, position: '' };

  constructor(
    private readonly options: IntakeOptions<T>,
    private readonly rows: Rows,
    private readonly onSend: (batch: Batch) => Promise<CommittedBatch>,
  ) {}

  get bytes(): number {
    return this.rows.bytes + this.#keyBytes + this.#rejectedBytes;
  }

  append(item: T, payload: unknown, index: number): void {
    const { delaySeconds, dedupeKey } = this.options;
    const position = this.#positionOf(item, index);
    const delay = typeof delaySeconds === 'number' ? delaySeconds : checkDelay(delaySeconds(item), index);
    const key = dedupeKey && checkKey(dedupeKey(item), index);
    this.rows.append(payload, index, delay);
    if (dedupeKey) this.rows.keys.push(key);
    if (key !== undefined) this.#keyBytes += Buffer.byteLength(key);
    this.#position = position;
    this.count++;
  }

  reject(item: T, error: unknown, index: number): boolean {
    const { rejects } = this.options;
    if (!rejects || !Rejects.isAboutItem(error)) return false;
    this.#position = this.#positionOf(item, index);
    this.count++;
    const { code, message } = error;
    const reason = error instanceof PayloadInvalidError ? error.reason : message;
    const rejected: Rejected = { reject: { index, code, reason, item }, reported: false };
    this.#rejectedBytes += rejects.keep(rejected);
    this.#rejects.push(rejected);
    return true;
  }

  send(): Promise<CommittedBatch> {
    return this.onSend(new Batch(this.rows, this.#rejects, this.count, this.#position));
  }

  #positionOf(item: T, index: number): string {
    const { resume } = this.options;
    if (!resume?.position) return String(index + 1);
    if (this.#asked.index !== index) {
      this.#asked.position = checkPosition(resume.position(item, index), index);
      this.#asked.index = index;
    }
    return this.#asked.position;
  }
}
