import type { Room } from '../../streams/claim-loop.js';
import type { Session } from '../db.js';
import { isAnswer, tookTooLong } from '../errors/answer.js';
import { InvalidOptionError } from '../errors/index.js';
import { type Holder, Message } from '../message.js';
import * as claims from '../sql/claim.js';
import type { SettledBy } from '../sql/settle.js';
import type { Incarnation } from '../sql/workers.js';
import type { StoredMessage } from '../types.js';
import type { Acknowledgements } from './acknowledgements.js';
import type { Floor, Look } from './floor.js';
import { Reach } from './reach.js';

export interface ClaimsOptions {
  worker: Incarnation;
  claimable: claims.Claimable;
  floor: Floor;
  /** What waits there travels with a claim. */
  done: Record<SettledBy, Acknowledgements>;
  /** Whom the messages ask. */
  holder: Holder;
  /** Runs a statement within its time. */
  answered: <R>(what: string, work: (on: Session) => Promise<R>, hurry: AbortSignal) => Promise<R>;
  /** Makes a payload of its JSON. */
  parsePayload: (json: string) => unknown;
  onUnreadable: (message: Message, error: unknown) => void;
  /** What a consumer that is not registered any more throws. */
  fenced: () => Error;
}

/** A claim: for what there is room, and how. */
export interface Asking {
  room: Room;
  lockSeconds: number;
  hurry: AbortSignal;
  /** Called when a statement is about to be sent: leases begin after that. */
  onSending?: () => void;
  /** How many may come of those whose leases have run out more than once. @default 1 */
  suspectsAtMost?: number;
  /** All that is due, wherever it is; otherwise what lies before the floor is left to another look. */
  everything?: boolean;
}

/** In one statement. */
const MAX_CLAIMED = 100_000;

/**
 * The claims of one consumer. Acknowledgements that are waiting when one begins travel with it; they never wait for one.
 */
export class Claims {
  readonly #reach = new Reach(MAX_CLAIMED);
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(private readonly options: ClaimsOptions) {}

  /** Claims what there is room for of the messages that are due, in the order in which they became so. */
  async claim<T>(asking: Asking): Promise<Message<T>[]> {
    const { floor } = this.options;
    const look = floor.next();
    const { messages, left } = await this.#claim<T>(asking, look);
    if (!asking.everything || look.kind === 'all' || !left) return messages;
    // There may be more before the floor. What is in hand already stays in hand.
    const { messages: more } = await this.#claim<T>({ ...asking, room: left }, floor.all()).catch(
      (error: unknown) => {
        if (messages.length === 0) throw error;
        return { messages: [] };
      },
    );
    // With a lease of no time the same messages may have come again.
    const again = new Set(more.map(({ id }) => id));
    return [...more, ...messages.filter(({ id }) => !again.has(id))];
  }

  /** Resolves when none is under way. */
  async idle(): Promise<void> {
    await Promise.all(this.#underWay);
  }

  /** @returns `left`: what there is still room for, where the queue may have it */
  async #claim<T>(asking: Asking, look: Look): Promise<{ messages: Message<T>[]; left: Room | undefined }> {
    const { floor } = this.options;
    const claiming = this.#inReach(asking, look);
    const claim = claiming.catch(() => undefined).finally(() => this.#underWay.delete(claim));
    this.#underWay.add(claim);
    const { room, claimed, tookMs } = await claiming;
    const { messages, suspects, last, bytes, more } = claimed;
    if (!messages) throw this.options.fenced();
    const isFull = more || messages.length === room.limit;
    floor.found(look, { last, isFull, more, tookMs });
    const left = { limit: room.limit - messages.length, maxBytes: room.maxBytes - bytes };
    return {
      messages: messages.flatMap((stored) => this.#read<T>(stored, suspects.has(stored.id)) ?? []),
      left: isFull || left.maxBytes <= 0 ? undefined : left,
    };
  }

  /** Of as many as the server manages in its time: where that was too short, at once of half as many. */
  async #inReach(
    { room, lockSeconds, hurry, onSending, suspectsAtMost = 1 }: Asking,
    look: Look,
  ): Promise<{ room: Room; claimed: claims.Claimed; tookMs: number }> {
    const { worker, claimable, floor } = this.options;
    const suspects = { fromReadCount: this.#suspectFrom, atMost: suspectsAtMost };
    for (;;) {
      const inReach = { ...room, limit: Math.min(room.limit, this.#reach.size) };
      let sentAt = 0;
      let tookMs = 0;
      const send = async (on: Session) => {
        onSending?.();
        sentAt = performance.now();
        const claim = { ...claimable, ...inReach, worker, lockSeconds, floor: look.place, suspects };
        const claimed = await this.#claimOn(on, claim);
        tookMs = performance.now() - sentAt;
        return claimed;
      };
      try {
        const claimed = await this.options.answered('claiming messages', send, hurry);
        this.#reach.managed(claimed.messages?.length ?? 0);
        return { room: inReach, claimed, tookMs };
      } catch (error) {
        if (!tookTooLong(error)) throw error;
        this.#reach.tookTooLong(inReach.limit);
        if (isAnswer(error)) floor.took(look, performance.now() - sentAt);
        if (inReach.limit === 1 || !isAnswer(error) || hurry.aborted) throw error;
      }
    }
  }

  /** What is settled along with a claim never fails it: refused, or in the way, it goes on its own. */
  async #claimOn(on: Session, claim: claims.Claim): Promise<claims.Claimed> {
    const { archive, delete: deleted } = this.options.done;
    const by = archive.waiting >= deleted.waiting ? 'archive' : 'delete';
    const done = this.options.done[by];
    const waiting = done.take();
    if (waiting.length === 0) return claims.claimMessages(on, claim);
    try {
      const held = waiting.map(({ delivery }) => delivery);
      const claimed = await claims.claimMessages(on, { ...claim, settlement: { by, held } });
      if (claimed.settled === 'refused') done.again(waiting);
      else done.answered(waiting, claimed.settled);
      return claimed;
    } catch (error) {
      done.again(waiting, error);
      if (!isAnswer(error) || tookTooLong(error)) throw error;
      return claims.claimMessages(on, claim);
    }
  }

  /** A message whose payload cannot be parsed has failed, as if its handler had. */
  #read<T>(stored: StoredMessage<string>, isSuspect: boolean): Message<T> | undefined {
    const { holder, parsePayload, onUnreadable } = this.options;
    const json = stored.payload;
    const bytes = Buffer.byteLength(json);
    try {
      const payload = parsePayload(json);
      if (payload instanceof Promise) {
        payload.catch(() => undefined);
        throw new InvalidOptionError(
          'parsePayload',
          'a function that answers at once',
          'one that answers a Promise',
        );
      }
      const message = new Message(stored, payload as T, holder, bytes);
      if (isSuspect) message.suspect();
      return message;
    } catch (error) {
      onUnreadable(new Message(stored, json, holder, bytes), error);
      return undefined;
    }
  }

  /** Half of the deliveries may end in crashes that others have caused; of the rest none is wasted on waiting. */
  get #suspectFrom(): number {
    return Math.max(1, Math.ceil(this.options.claimable.maxReadCount / 2) - 1);
  }
}
