import { isAnswer, tookTooLong } from '../errors/answer.js';
import { LeaseLostError } from '../errors/index.js';
import type { Delivery, Renewal } from '../sql/settle.js';
import { Reach } from './reach.js';

/** Of a lease's time: it is renewed when less than that is left. */
const RENEW_BELOW = 2 / 3;
/** Looks at the leases in the time of one: a renewal that failed is made again in time. */
const LOOKS = 6;
/** In one statement. */
const MAX_RENEWED = 5_000;

/** The lease of one delivery in this process' hands. */
export interface Lease {
  readonly delivery: Delivery;
  /** By the clock of performance.now(); never later than the server's end of it. */
  endsAtMs: number;
  /** What its message takes in memory. */
  readonly bytes: number;
  /** Called once, when it is lost. */
  lose(error: LeaseLostError): void;
}

export interface LeasesOptions {
  lockSeconds: number;
  /** Renews leases; answers for each what became of it. */
  renew: (deliveries: readonly Delivery[], lockSeconds: number) => Promise<Renewal[]>;
  onRenewError: (error: Error) => void;
  /** Called once for each that was added, when it is settled or lost. */
  onRemoved: (lease: Lease) => void;
}

/**
 * Keeps the leases of messages that this process is at, from a timer, however long that takes. A lease is lost when
 * the server says so, or when it has run out and the server cannot be asked.
 */
export class Leases {
  readonly #leases = new Set<Lease>();
  readonly #timer: NodeJS.Timeout;
  readonly #lockMs: number;
  readonly #reach = new Reach(MAX_RENEWED);
  #renewing = false;

  constructor(private readonly options: LeasesOptions) {
    this.#lockMs = options.lockSeconds * 1_000;
    // The longest delay of a timer is 24.8 days: a lease may last 30.
    this.#timer = setInterval(() => void this.#look(), this.#lockMs / LOOKS).unref();
  }

  add(lease: Lease): void {
    this.#leases.add(lease);
  }

  /** Settled, one way or the other. */
  remove(lease: Lease): void {
    if (this.#leases.delete(lease)) this.options.onRemoved(lease);
  }

  /**
   * Makes leases last at least that long from now.
   * @returns whether all of them are still held
   */
  async extend(leases: readonly Lease[], seconds: number): Promise<boolean> {
    return this.#renewed(leases, seconds);
  }

  /** Nothing is renewed any more, and nothing held. */
  end(): void {
    clearInterval(this.#timer);
    for (const lease of this.#leases) this.remove(lease);
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const now = performance.now();
    const due = [...this.#leases].filter(({ endsAtMs }) => endsAtMs - now < this.#lockMs * RENEW_BELOW);
    if (this.#renewing) {
      this.#loseEnded(due);
      return;
    }
    this.#renewing = true;
    for (let at = 0, size; at < due.length; at += size) {
      size = this.#reach.size;
      await this.#renew(due.slice(at, at + size));
    }
    this.#renewing = false;
  }

  /** Of as many as the server manages in its time: where that was too short, at once of half as many. */
  async #renew(leases: readonly Lease[]): Promise<void> {
    try {
      await this.#renewed(leases, this.options.lockSeconds);
      this.#reach.managed(leases.length);
    } catch (error) {
      if (tookTooLong(error)) this.#reach.tookTooLong(leases.length);
      if (tookTooLong(error) && isAnswer(error) && leases.length > 1) {
        const half = Math.ceil(leases.length / 2);
        await this.#renew(leases.slice(0, half));
        await this.#renew(leases.slice(half));
        return;
      }
      this.options.onRenewError(error as Error);
      this.#loseEnded(leases, error);
    }
  }

  async #renewed(leases: readonly Lease[], seconds: number): Promise<boolean> {
    const untilMs = performance.now() + seconds * 1_000;
    const deliveries = leases.map(({ delivery }) => delivery);
    const renewals = await this.options.renew(deliveries, seconds);
    leases.forEach((lease, at) => {
      if (renewals[at] === 'renewed') lease.endsAtMs = Math.max(lease.endsAtMs, untilMs);
      if (renewals[at] === 'lost') this.#lose(lease);
    });
    return !renewals.includes('lost');
  }

  #loseEnded(leases: readonly Lease[], cause?: unknown): void {
    for (const lease of leases) if (performance.now() >= lease.endsAtMs) this.#lose(lease, { cause });
  }

  #lose(lease: Lease, options?: ErrorOptions): void {
    if (!this.#leases.delete(lease)) return;
    this.options.onRemoved(lease);
    lease.lose(new LeaseLostError(lease.delivery.id, options));
  }
}
