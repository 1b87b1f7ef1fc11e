import { createHash } from 'node:crypto';

/** A checksum over a sequence of records: equal only if the records and their order are. */
export class Checksum {
  count = 0;
  readonly #hash = createHash('sha256');

  add(record: object): void {
    this.count++;
    // jsonb keeps no order of keys, so they are sorted on both sides.
    const keys = Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
    this.#hash.update(JSON.stringify(keys)).update('\n');
  }

  digest(): string {
    return this.#hash.copy().digest('hex');
  }
}
