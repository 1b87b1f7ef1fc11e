import type { Place } from '../sql/claim.js';

/** From where a claim looks: behind the floor, from a little before it, or from the beginning of the queue. */
export type LookKind = 'behind' | 'recent' | 'all';

export interface Look {
  readonly kind: LookKind;
  /** Undefined: from the beginning. */
  readonly place: Place | undefined;
  /** How often the floor had been lowered when it began. */
  readonly lowered: number;
}

export interface Found {
  /** Up to here it has left nothing that was due. Undefined: not known, or nothing was due. */
  last: Place | undefined;
  /** There may be more behind that. */
  isFull: boolean;
  /** It has left some that were due. */
  more: boolean;
  tookMs: number;
}

/** Transactions are seldom open for longer before they commit what they have enqueued. */
const RECENT_MICROS = 10_000_000;
/** So many times as long as it has taken is between two looks before the floor: a tenth of the time, whatever is dead. */
const SPACING = 10;
/** While claims bring all that they ask for, the next messages are known, and late ones can wait a little longer. */
const BETWEEN_WHEN_FULL_MS = 1_000;

/**
 * Where claims begin to look. Claimed and settled messages stay in the index until they are vacuumed, which a
 * transaction that is held open prevents: a claim that begins behind what others have brought does not walk over them.
 *
 * Messages may still come before the floor: committed late by a long transaction, given back by another process, written
 * by the clock of a pgqrs client. So some looks begin before it, spaced by what they take: most find what is late from
 * a little before it, where few are dead, and some from the beginning.
 */
export class Floor {
  #place: Place | undefined;
  #lowered = 0;
  #kind: LookKind = 'all';
  #isFull = false;
  readonly #before = {
    recent: { beganAt: -Infinity, tookMs: 0 },
    all: { beganAt: -Infinity, tookMs: 0 },
  };

  constructor(private readonly now: () => number = () => performance.now()) {}

  /** For the claim that begins now. */
  next(): Look {
    if (this.#dueInMs('all') <= 0) return this.all();
    return this.#begin(this.#dueInMs('recent') <= 0 ? 'recent' : 'behind');
  }

  /** From the beginning, though none is due. */
  all(): Look {
    return this.#begin('all');
  }

  /** What a look has brought. */
  found(look: Look, { last, isFull, more, tookMs }: Found): void {
    this.took(look, tookMs);
    this.#isFull = isFull;
    const to = isFull ? (last ?? look.place) : later(last, this.#place);
    if (isBefore(to, this.#place)) {
      // Of looks side by side behind the floor another one has brought what is in between.
      if (more || look.kind !== 'behind') this.#lower(to);
    } else if (look.lowered === this.#lowered) this.#place = to;
  }

  /** How long a look has taken. */
  took({ kind }: Look, ms: number): void {
    if (kind !== 'behind') this.#before[kind].tookMs = ms;
  }

  /** Something may have come before it, anywhere. */
  reset(): void {
    this.#lower(undefined);
  }

  /** ms until a look is due that begins before the last one; nothing after one from the beginning. */
  get nextLookMs(): number | undefined {
    if (this.#kind === 'all') return undefined;
    const all = this.#dueInMs('all');
    return Math.max(0, this.#kind === 'recent' ? all : Math.min(all, this.#dueInMs('recent')));
  }

  /**
   * From where it is worth to ask for the next message that will be due. After a look before the floor from a little
   * before it: others may hold there what they have locked and not yet leased.
   */
  get waitsBehind(): Place | undefined {
    return this.#kind === 'behind' ? this.#place : this.#recent;
  }

  get #recent(): Place | undefined {
    return this.#place && { dueMicros: this.#place.dueMicros - RECENT_MICROS, id: '0' };
  }

  #begin(kind: LookKind): Look {
    const beganAt = this.now();
    this.#kind = kind;
    if (kind === 'all') this.#before.all.beganAt = beganAt;
    if (kind !== 'behind') this.#before.recent.beganAt = beganAt;
    const place = { behind: this.#place, recent: this.#recent, all: undefined }[kind];
    return { kind, place, lowered: this.#lowered };
  }

  #dueInMs(kind: 'recent' | 'all'): number {
    if (!this.#place) return 0;
    const { beganAt, tookMs } = this.#before[kind];
    const spacing = Math.max(this.#isFull ? BETWEEN_WHEN_FULL_MS : 0, SPACING * tookMs);
    return beganAt + spacing - this.now();
  }

  /** Looks that are under way do not know what has come before it since. */
  #lower(place: Place | undefined): void {
    this.#lowered++;
    this.#place = place;
  }
}

function isBefore(a: Place | undefined, b: Place | undefined): boolean {
  if (!a || !b) return !a && b !== undefined;
  return a.dueMicros < b.dueMicros || (a.dueMicros === b.dueMicros && BigInt(a.id) < BigInt(b.id));
}

function later(a: Place | undefined, b: Place | undefined): Place | undefined {
  return isBefore(a, b) ? b : a;
}
