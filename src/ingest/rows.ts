import type { Id } from '../types.js';
import type { PayloadCheck } from '../validation.js';
import { JSONB_VERSION, jsonbArray } from './jsonb-array.js';

const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const TRAILER = Buffer.from([0xff, 0xff]);
const CHUNK_BYTES = 256 * 1024;
const PART_CHUNK_BYTES = 16 * 1024;
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
  /** Where each row begins, and where the last one ends; made when it is asked for. */
  #marks: number[] = [];

  constructor(private readonly format: RowFormat) {
    this.#end = SIGNATURE.copy(this.#buffer);
  }

  /** Whether each carries its own `vt`. */
  get withVt(): boolean {
    return this.format.vtOffset !== undefined;
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
    for (let at = 0; at < which.length;) {
      const first = which[at] as number;
      let next = first;
      for (; which[at] === next; at++) next++;
      const [start, end] = [starts[first] as number, starts[next] as number];
      picked.#reserve(picked.#end + end - start);
      picked.#end += this.#buffer.copy(picked.#buffer, picked.#end, start, end);
    }
    for (const row of which) {
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

  /** `vt` becomes `nowMicros`, the transaction's `now()`, plus each delay; for COPY alone. */
  stampVt(nowMicros: bigint): void {
    const { vtOffset } = this.format;
    if (vtOffset === undefined) return;
    const now = nowMicros - POSTGRES_EPOCH_MICROS;
    const starts = this.#starts();
    this.delays.forEach((delay, row) => {
      this.#buffer.writeBigInt64BE(now + BigInt(delay) * 1_000_000n, (starts[row] as number) + vtOffset);
    });
  }

  /** The whole COPY: signature, rows, trailer, in big chunks. */
  *copyChunks(): Iterable<Buffer> {
    this.#reserve(this.#end + TRAILER.length);
    const end = this.#end + TRAILER.copy(this.#buffer, this.#end);
    yield* this.#chunks(0, end, CHUNK_BYTES);
  }

  /** A COPY of the rows from `from` to `to`, without the last, in small chunks: the server may refuse any of them. */
  *copyPart(from: number, to: number): Iterable<Buffer> {
    const starts = this.#starts();
    yield SIGNATURE;
    yield* this.#chunks(starts[from] as number, starts[to] as number, PART_CHUNK_BYTES);
    yield TRAILER;
  }

  /** Payloads as a jsonb[] in binary format; its elements are the payload fields of the rows, byte for byte. */
  payloadArray(from = 0, to = this.count): Buffer {
    const starts = this.#starts();
    const [start, end] = [starts[from] as number, starts[to] as number];
    const headerBytes = this.format.header.length;
    const { array, at: first } = jsonbArray(to - from, end - start - (to - from) * headerBytes);
    let at = first;
    for (let row = from; row < to; row++)
      at += this.#buffer.copy(array, at, (starts[row] as number) + headerBytes, starts[row + 1]);
    return array;
  }

  clear(): void {
    this.count = 0;
    this.#marks = [];
    this.#end = SIGNATURE.length;
    this.indexes.length = 0;
    this.delays.length = 0;
    this.keys.length = 0;
  }

  *#chunks(start: number, end: number, bytes: number): Iterable<Buffer> {
    for (let at = start; at < end; at += bytes) yield this.#buffer.subarray(at, Math.min(at + bytes, end));
  }

  #starts(): readonly number[] {
    if (this.#marks.length !== this.count + 1) {
      this.#marks = [SIGNATURE.length];
      for (let at = SIGNATURE.length; at < this.#end; this.#marks.push(at)) {
        const field = at + this.format.header.length;
        at = field + 4 + this.#buffer.readInt32BE(field);
      }
    }
    return this.#marks;
  }

  #reserve(bytes: number): void {
    if (bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes, this.#buffer.length * 2));
    this.#buffer.copy(larger, 0, 0, this.#end);
    this.#buffer = larger;
  }
}
