import type { Queryable, Session } from '../db.js';
import type { ForeignLeases, Id, StoredMessage } from '../types.js';
import { areIn, namesOf, type SettledBy, type Settlement } from './settle.js';
import { prepared, statement } from './statement.js';
import { date } from './time.js';
import type { Incarnation } from './workers.js';

/** Named by what it does, for the server's views. */
const claim = (name: string) =>
  statement(
    name,
    (s) => `
  select message as id, body as payload, reads as "readCount", suspect, producer as "producerWorkerId",
    enqueued as "enqueuedAt", dequeued as "dequeuedAt", head
  from ${s}.sluice_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
  );

const CLAIM = claim('claim_messages');
const CLAIM_AND: Record<SettledBy, (schema: string) => string> = {
  archive: claim('claim_messages_and_archive'),
  delete: claim('claim_messages_and_delete'),
};

const NEXT_DUE = statement('next_due', (s) => `select ${s}.sluice_next_due($1, $2, $3, $4, $5) as ms`);

/** What a consumer may claim. */
export interface Claimable {
  queueId: Id;
  /** Only messages that were delivered less often than that. */
  maxReadCount: number;
  /** Whether it may take what a foreign client leased and has not given back. */
  foreignLeases: ForeignLeases;
}

/** A place in the order of being due; exact, unlike a Date. */
export interface Place {
  dueMicros: number;
  id: Id;
}

export interface Claim extends Claimable {
  /** Most messages to look at, and so to bring. */
  limit: number;
  /**
   * Most bytes of payload, as the client receives them: the JSON text, whatever is left of it on the server's disk. One
   * message comes whatever its size.
   */
  maxBytes: number;
  /** Whom the messages are leased to, and for how long. */
  worker: Incarnation;
  lockSeconds: number;
  /** Only messages behind this place. */
  floor: Place | undefined;
  /**
   * Bounds suspects (messages whose last lease ran out, perhaps since they end the process that handles them) that were
   * delivered `fromReadCount` times already or more often, or have one delivery left: at most so many come. The others
   * count against `limit`, and stay. @default no bound
   */
  suspects?: { fromReadCount: number; atMost: number } | undefined;
  /** What is settled along with it, and before it. */
  settlement?: Settlement | undefined;
}

export interface Claimed {
  /** In the order of their being due, with the JSON of their payloads. Nothing: the worker is fenced. */
  messages: StoredMessage<string>[] | undefined;
  /** Those of them whose last lease ran out. */
  suspects: ReadonlySet<Id>;
  /** Of the payloads together, as the client receives them. */
  bytes: number;
  /** Whether messages that were due are left, since they were too big together, or too many suspects. */
  more: boolean;
  /** Up to here nothing that was due is left but what others hold. Nothing: it is not known, or nothing was due. */
  last: Place | undefined;
  /**
   * For each that was to be settled, in input order, whether the worker held it. `refused`: the server refuses to settle
   * at least one of them, so none was settled; sent alone they learn why.
   */
  settled: boolean[] | 'refused';
}

interface ClaimedRow {
  id: Id;
  payload: string;
  readCount: number;
  suspect: boolean;
  producerWorkerId: Id | null;
  enqueuedAt: number;
  dequeuedAt: number;
}

/** The last row is about all of them. As JSON that is parsed here: the driver's parsers may be the caller's. */
interface HeadRow {
  head: string;
}

interface Head {
  fenced: boolean;
  leasedUntil: number;
  bytes: number;
  more: boolean;
  last: Place | null;
  settled: string[] | null;
  refused: boolean;
}

export async function claimMessages(on: Queryable | Session, claim: Claim): Promise<Claimed> {
  const { queueId, worker, suspects, settlement } = claim;
  const text = settlement ? CLAIM_AND[settlement.by] : CLAIM;
  const rows = await prepared<HeadRow | ClaimedRow>(on, text(on.schema), [
    ...[
      queueId,
      claim.limit,
      claim.maxBytes === Infinity ? null : claim.maxBytes,
      claim.maxReadCount,
      claim.foreignLeases,
    ],
    ...[worker.id, worker.incarnation, claim.lockSeconds],
    ...placeOf(claim.floor),
    ...[suspects?.fromReadCount ?? null, suspects?.atMost ?? null],
    ...(settlement ? [settlement.by, ...namesOf(settlement.held)] : [null, null, null]),
  ]);
  const head = JSON.parse((rows.pop() as HeadRow).head) as Head;
  const vtMs = date(head.leasedUntil).getTime();
  const settled = settlement ? areIn(head.settled, settlement.held) : [];
  return {
    messages: head.fenced
      ? undefined
      : (rows as ClaimedRow[]).map((row) => ({
          id: row.id,
          queueId,
          payload: row.payload,
          vt: new Date(vtMs),
          enqueuedAt: date(row.enqueuedAt),
          readCount: row.readCount,
          dequeuedAt: date(row.dequeuedAt),
          producerWorkerId: row.producerWorkerId,
          consumerWorkerId: worker.id,
          archivedAt: null,
        })),
    suspects: new Set((rows as ClaimedRow[]).filter(({ suspect }) => suspect).map(({ id }) => id)),
    bytes: head.bytes,
    more: head.more,
    last: head.last ?? undefined,
    settled: head.refused ? 'refused' : settled,
  };
}

/**
 * When the next message will be due, in ms from now: a delay that ends, or a lease that expires.
 * @param floor only messages behind this place
 * @returns 0 when one is due; nothing when none is waiting
 */
export async function nextDueMs(
  on: Queryable | Session,
  { queueId, maxReadCount, foreignLeases }: Claimable,
  floor?: Place,
): Promise<number | undefined> {
  const [row] = await prepared<{ ms: number | null }>(on, NEXT_DUE(on.schema), [
    ...[queueId, maxReadCount, foreignLeases],
    ...placeOf(floor),
  ]);
  return row?.ms ?? undefined;
}

function placeOf(floor: Place | undefined): [dueMicros: number | null, id: Id | null] {
  return [floor?.dueMicros ?? null, floor?.id ?? null];
}
