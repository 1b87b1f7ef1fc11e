import type { CallersClient, Db, Session } from '../db.js';
import { STEP_ENTRIES } from '../in-steps.js';
import type { Holder, Message } from '../message.js';
import { oneTransaction } from '../on-client.js';
import * as claims from '../sql/claim.js';
import { type Persistence, retrying } from '../retrying.js';
import * as settle from '../sql/settle.js';
import type { Place } from '../sql/walk.js';
import type { Incarnation } from '../sql/workers.js';
import { type Acknowledgement, Acknowledgements, Asked } from './acknowledgements.js';
import { type Asking, Claims } from './claims.js';
import { Floor } from './floor.js';
import { afterFailure, type Failure } from './outcome.js';
import type { RetryPolicy } from './retry-policy.js';

export interface DeliveriesOptions {
  db: Db;
  worker: Incarnation;
  claimable: claims.Claimable;
  retryPolicy: RetryPolicy;
  /** Makes a payload of its JSON. */
  parsePayload: (json: string) => unknown;
  /** Told of a message that could not be parsed, and of what has become of it. */
  onUnreadable: (failure: Failure) => void;
  /** What a consumer that is not registered any more throws. */
  fenced: () => Error;
  /** Called when messages are back in the queue: they may be due before whatever was waited for. */
  onReturned: () => void;
  /** From its abort on answers are waited for briefly. */
  hurry: AbortSignal;
}

/** Longest wait for the answer to a statement, in ms; when a consumer or a stream ends, what is under way has less. */
const ANSWER_MS = 30_000;
const LAST_ANSWER_MS = 2_000;
/** In one statement. */
const MAX_GIVEN_BACK = 5_000;
const GIVE_BACK_ONCE: Persistence = { baseMs: 0, maxMs: 0, retries: 0 };

/** What a consumer and the server have to say to each other about messages. */
export class Deliveries implements Holder {
  readonly #floor = new Floor();
  readonly #done: Record<settle.SettledBy, Acknowledgements>;
  readonly #releases: Acknowledgements<settle.Release>;
  readonly #returns: Acknowledgements;
  readonly #claims: Claims;

  constructor(private readonly options: DeliveriesOptions) {
    const { hurry, worker } = options;
    const done = (by: settle.SettledBy) => (held: readonly settle.Delivery[], onSending: () => void) =>
      this.#answered('settling messages', (on) => {
        onSending();
        return settle.settleMessages(on, worker, { by, held });
      });
    this.#done = {
      archive: new Acknowledgements({
        send: done('archive'),
        wasCarriedOut: (held) =>
          this.#answered('settling messages', (on) => settle.wereArchived(on, worker, held)),
        hurry,
      }),
      delete: new Acknowledgements({ send: done('delete'), hurry }),
    };
    this.#claims = new Claims({
      ...options,
      floor: this.#floor,
      done: this.#done,
      holder: this,
      answered: (what, work, signal) => this.#answered(what, work, signal),
      onUnreadable: (message, error) => void this.#unreadable(message, error),
    });
    this.#releases = new Acknowledgements({
      send: (releases, onSending) => this.#release(releases, onSending),
      hurry,
    });
    this.#returns = new Acknowledgements({
      send: (held, onSending) => this.#giveBack(held, onSending),
      hurry,
    });
  }

  /** Claims what there is room for of the messages that are due, in the order in which they became so. */
  claim<T>(asking: Omit<Asking, 'hurry'> & { hurry?: AbortSignal }): Promise<Message<T>[]> {
    return this.#claims.claim<T>({ hurry: this.options.hurry, ...asking });
  }

  /**
   * ms until the next message is due, 0 when one is; nothing when none is waiting. What has come before the last claims is
   * not looked for: `nextLookMs` says when a claim will.
   */
  nextDueMs(hurry: AbortSignal): Promise<number | undefined> {
    return this.#answered(
      'looking for due messages',
      (on) => claims.nextDueMs(on, this.options.claimable, this.#floor.waitsBehind),
      hurry,
    );
  }

  /** ms until a claim is due for what may have come before the last ones; nothing when they have looked for it. */
  get nextLookMs(): number | undefined {
    return this.#floor.nextLookMs;
  }

  /** Messages may have come that are due before those that were claimed last. */
  startOver(): void {
    this.#floor.reset();
  }

  archive(held: settle.Delivery, client?: CallersClient): Promise<boolean> {
    return this.done('archive', held, client);
  }

  delete(held: settle.Delivery, client?: CallersClient): Promise<boolean> {
    return this.done('delete', held, client);
  }

  async done(by: settle.SettledBy, held: settle.Delivery, client?: CallersClient): Promise<boolean> {
    if (client) return first(await this.doneMany(by, [held], client));
    const asked = new Asked(held);
    this.settle(by, asked);
    return asked.answer;
  }

  /** As `done`, for who does not want a promise for each. */
  settle(by: settle.SettledBy, acknowledgement: Acknowledgement): void {
    this.#done[by].add(acknowledgement);
  }

  /** In one statement of their own. */
  doneMany(
    by: settle.SettledBy,
    held: readonly settle.Delivery[],
    client?: CallersClient,
  ): Promise<boolean[]> {
    const work = (on: Parameters<typeof settle.settleMessages>[0]) =>
      settle.settleMessages(on, this.options.worker, { by, held });
    return client ? work(this.options.db.on(client)) : this.#answered('settling messages', work);
  }

  async release(held: settle.Release, client?: CallersClient): Promise<boolean> {
    if (client) return first(await this.releaseMany([held], client));
    const asked = new Asked(held);
    this.letGo(asked);
    return asked.answer;
  }

  /** As `release`, for who does not want a promise for each. */
  letGo(acknowledgement: Acknowledgement<settle.Release>): void {
    this.#releases.add(acknowledgement);
  }

  /** In one statement of their own. */
  releaseMany(releases: readonly settle.Release[], client?: CallersClient): Promise<boolean[]> {
    if (!client) return this.#release(releases);
    return settle.releaseMessages(this.options.db.on(client), this.options.worker, releases);
  }

  async #release(
    releases: readonly settle.Release[],
    onSending: () => void = () => undefined,
  ): Promise<boolean[]> {
    const released = await this.#answered('settling messages', (on) => {
      onSending();
      return settle.releaseMessages(on, this.options.worker, releases);
    });
    if (releases.some(({ dead }, at) => released[at] && !dead)) this.options.onReturned();
    return released;
  }

  /** What a failure makes of a message: by the retry policy, or among the dead letters. */
  afterFailure(message: settle.Delivery & { readCount: number }, error: unknown): settle.Release {
    const { retryPolicy, claimable } = this.options;
    return afterFailure(message, error, retryPolicy, claimable.maxReadCount);
  }

  async extendVisibility(held: settle.Delivery, seconds: number): Promise<boolean> {
    return first(
      await this.#answered('settling messages', (on) =>
        settle.extendMessages(on, this.options.worker, [held], seconds),
      ),
    );
  }

  /** Whether its next lease may not run out: what ends its process now is buried. */
  isLastChance(message: Message): boolean {
    return message.isSuspect && message.readCount >= this.options.claimable.maxReadCount;
  }

  /**
   * What of a claim its caller gets. A last chance comes alone, and is marked first: from then on it may be handled. In
   * two steps, or one whose claim was not answered would be taken for one that ended its process.
   */
  async handOut<T>(messages: Message<T>[]): Promise<Message<T>[]> {
    const last = messages.find((message) => this.isLastChance(message));
    if (!last) return messages;
    const [held] = await Promise.all([
      this.markBegun(last).catch(() => true),
      this.giveBack(messages.filter((message) => message !== last)),
    ]);
    return held ? [last] : [];
  }

  /** A handler is about to begin on a last chance. @returns whether it is still held */
  async markBegun(held: settle.Delivery): Promise<boolean> {
    return first(
      await this.#answered('marking a last delivery', (on) =>
        settle.markBegun(on, this.options.worker, [held]),
      ),
    );
  }

  /** Never waits behind the work. */
  renew(held: readonly settle.Delivery[], lockSeconds: number): Promise<settle.Renewal[]> {
    return settle.renewLeases(this.options.db.urgent, this.options.worker, held, lockSeconds);
  }

  /** As if it had never been delivered; a message object that somebody has in hand must have been ended. */
  giveBackOne(acknowledgement: Acknowledgement): void {
    this.#returns.add(acknowledgement);
  }

  async #giveBack(held: readonly settle.Delivery[], onSending: () => void): Promise<boolean[]> {
    const back = await this.#answered('giving messages back', (on) => {
      onSending();
      return settle.giveBackMessages(on, this.options.worker, held);
    });
    this.startOver();
    if (back.includes(true)) this.options.onReturned();
    return back;
  }

  /**
   * Messages that nobody has begun: they don't count as delivered. Where it fails the leases run out by themselves. Never
   * rejects.
   */
  async giveBack(
    messages: readonly settle.Delivery[],
    patience: Persistence = GIVE_BACK_ONCE,
  ): Promise<void> {
    if (messages.length === 0) return;
    const { db, worker, onReturned } = this.options;
    const limits = { what: 'giving messages back', ms: LAST_ANSWER_MS };
    for (let at = 0; at < messages.length; at += MAX_GIVEN_BACK) {
      const some = messages.slice(at, at + MAX_GIVEN_BACK);
      await retrying(patience, () =>
        oneTransaction(db, limits, (on) => settle.giveBackMessages(on, worker, some)),
      )
        .finally(() => this.startOver()) // an answer may be lost
        .then(onReturned, () => undefined);
    }
  }

  /** How many messages of the queue this consumer has not settled, expired ones too. */
  async countHeld(): Promise<number> {
    const { claimable, worker, fenced } = this.options;
    let held = 0;
    // Leases have no index of their own: in a long queue this takes many steps.
    let after: Place | undefined;
    do {
      const place = after;
      const step = await this.#answered('counting held messages', (on) =>
        settle.countHeldMessages(on, claimable.queueId, worker, place, STEP_ENTRIES),
      );
      if (!step) throw fenced();
      held += step.count;
      after = step.next;
    } while (after);
    return held;
  }

  /** Resolves when no acknowledgement is waiting or under way. */
  async idle(): Promise<void> {
    await this.#claims.idle();
    const { archive, delete: deleted } = this.#done;
    await Promise.all([archive, deleted, this.#releases, this.#returns].map((kind) => kind.idle()));
  }

  async #unreadable(message: Message, error: unknown): Promise<void> {
    const release = this.afterFailure(message, error);
    const { dead } = release;
    const held = await this.release(release).catch(() => false);
    if (!held) return;
    const retrySeconds = dead ? undefined : release.delaySeconds;
    this.options.onUnreadable({ message, error, retrySeconds, deadReason: dead?.reason });
  }

  #answered<R>(what: string, work: (on: Session) => Promise<R>, signal = this.options.hurry): Promise<R> {
    return oneTransaction(this.options.db, { what, ms: ANSWER_MS, signal, graceMs: LAST_ANSWER_MS }, work);
  }
}

function first(answers: boolean[]): boolean {
  return answers[0] === true;
}
