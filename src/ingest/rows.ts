import type { Id } from '../types.js';
import type { PayloadCheck } from '../validation.js';
import { JSONB_VERSION, jsonbArray } from './jsonb-array.js';

const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const TRAILER = Buffer.from([0xff, 0xff]);
const CHUNK_BYTES = 256 * 1024;
const FIRST_CAPACITY = 64 * 1024;
/** A timestamptz in binary counts from 2000. */
const POSTGRES_EPOCH_MICROS = BigInt(Date.UTC(2000, 0)) * 1_000n;

/** What every row of a stream has in common: its constant columns, as they stand before the payload. */
export interface RowFormat {
  header: Buffer;
  /** Where in the header the 8 bytes of `vt` begin; undefined when `vt` is left to its default. */
  vtOffset: number | undefined;
  check: PayloadCheck;
}

/** queue_id, producer_worker_id, origin [, vt], payload: the column order of sql/batches.ts. */
export function rowFormat(queueId: Id, workerId: Id, withVt: boolean, check: PayloadCheck): RowFormat {
  const header = Buffer.alloc(withVt ? 44 : 32);
  let at = header.writeInt16BE(withVt ? 5 : 4);
  for (const id of [queueId, workerId]) at = header.writeBigInt64BE(BigInt(id), header.writeInt32BE(8, at));
  at = header.writeInt16BE(1, header.writeInt32BE(2, at));
  if (withVt) at = header.writeInt32BE(8, at);
  return { header, vtOffset: withVt ? at : undefined, check };
}

/**
 * Rows as PostgreSQL's binary COPY wants them, in one buffer that grows and is used again: a payload becomes bytes
 * when it is written, so memory is bounded by bytes and an invalid payload is known at once.
 */
export class Rows {
  count = 0;
  /** Place of each row in the source. */
  readonly indexes: number[] = [];
  /** One per row, only when the format carries `vt`. */
  readonly delays: number[] = [];
  /** One per row, only where rows are deduplicated; undefined for a row that is not. */
  readonly keys: (string | undefined)[] = [];
  #buffer = Buffer.allocUnsafeSlow(FIRST_CAPACITY);
  #end: number;

  constructor(private readonly format: RowFormat) {
    this.#end = SIGNATURE.copy(this.#buffer);
  }

  get bytes(): number {
    return this.#end;
  }

  /** @param index place of the payload in its source, for errors */
  append(payload: unknown, index: number, delaySeconds: number): void {
    const { header, vtOffset, check } = this.format;
    const json = check.toJson(payload, index);
    const start = this.#end;
    const body = start + header.length + 5;
    // UTF-8 takes at most 3 bytes per UTF-16 unit: only text that might not fit is measured.
    if (body + json.length * 3 > this.#buffer.length) {
      const bytes = Buffer.byteLength(json);
      check.checkSize(bytes, index);
      this.#reserve(body + bytes);
    }
    const written = this.#buffer.write(json, body);
    check.checkSize(written, index);
    header.copy(this.#buffer, start);
    this.#buffer.writeInt32BE(written + 1, body - 5);
    this.#buffer[body - 1] = JSONB_VERSION;
    this.#end = body + written;
    this.count++;
    this.indexes.push(index);
    if (vtOffset !== undefined) this.delays.push(delaySeconds);
  }

  /** A copy with some of the rows, in their order. */
  pick(which: readonly number[]): Rows {
    const picked = new Rows(this.format);
    const starts = this.#starts();
    for (const row of which) {
      const [start, end] = [starts[row] as number, starts[row + 1] as number];
      picked.#reserve(picked.#end + end - start);
      picked.#end += this.#buffer.copy(picked.#buffer, picked.#end, start, end);
      picked.indexes.push(this.indexes[row] as number);
      if (this.delays.length > 0) picked.delays.push(this.delays[row] as number);
      if (this.keys.length > 0) picked.keys.push(this.keys[row]);
    }
    picked.count = which.length;
    return picked;
  }

  /** The JSON of one row. */
  json(row: number): string {
    const starts = this.#starts();
    const body = (starts[row] as number) + this.format.header.length + 5;
    return this.#buffer.toString('utf8', body, starts[row + 1]);
  }

  /** The whole COPY: signature, rows, trailer, in big chunks. `vt` becomes `nowMicros`, the transaction's `now()`, plus each delay. */
  *copyChunks(nowMicros: bigint): Iterable<Buffer> {
    this.#stampVt(nowMicros - POSTGRES_EPOCH_MICROS);
    this.#reserve(this.#end + TRAILER.length);
    const end = this.#end + TRAILER.copy(this.#buffer, this.#end);
    for (let at = 0; at < end; at += CHUNK_BYTES)
      yield this.#buffer.subarray(at, Math.min(at + CHUNK_BYTES, end));
  }

  /** The payloads as a jsonb[] in binary format; its elements are the payload fields of the rows, byte for byte. */
  payloadArray(): Buffer {
    const headerBytes = this.format.header.length;
    const elementBytes = this.#end - SIGNATURE.length - this.count * headerBytes;
    const { array, at: first } = jsonbArray(this.count, elementBytes);
    let to = first;
    for (let at = SIGNATURE.length; at < this.#end;) {
      const field = at + headerBytes;
      at = field + 4 + this.#buffer.readInt32BE(field);
      to += this.#buffer.copy(array, to, field, at);
    }
    return array;
  }

  clear(): void {
    this.count = 0;
    this.#end = SIGNATURE.length;
    this.indexes.length = 0;
    this.delays.length = 0;
    this.keys.length = 0;
  }

  #stampVt(now: bigint): void {
    const { vtOffset } = this.format;
    if (vtOffset === undefined) return;
    const starts = this.#starts();
    this.delays.forEach((delay, row) => {
      this.#buffer.writeBigInt64BE(now + BigInt(delay) * 1_000_000n, (starts[row] as number) + vtOffset);
    });
  }

  /** Where each row begins, and where the last one ends. */
  #starts(): number[] {
    const starts = [SIGNATURE.length];
    for (let at = SIGNATURE.length; at < this.#end; starts.push(at)) {
      const field = at + this.format.header.length;
      at = field + 4 + this.#buffer.readInt32BE(field);
    }
    return starts;
  }

  #reserve(bytes: number): void {
    if (bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes, this.#buffer.length * 2));
    this.#buffer.copy(larger, 0, 0, this.#end);
    this.#buffer = larger;
  }
}
