import { expect } from 'vitest';
import type { Reject } from '../../src/index.js';
import type { Scenario } from '../support/scenario.js';

export interface Item {
  n: number;
  text: string;
  /** The server refuses it, once it was told to. */
  bad?: true;
}

export const good = (n: number): Item => ({ n, text: `item ${n} — ünïcode ✓ "quoted" 😀` });
export const bad = (n: number): Item => ({ n, text: 'secret', bad: true });

const raising = (s: string) => `
  create function ${s}.refuse() returns trigger language plpgsql as $$
  begin
    if new.payload @> '{"bad": true}' then raise exception 'not wanted here'; end if;
    return new;
  end $$`;

/** Ways in which a server refuses rows with `bad: true`; all let messages of rejects pass. */
export const SERVER_REFUSES = {
  'a CHECK constraint': (s: string) =>
    `alter table ${s}.pgqrs_messages add constraint not_bad check (not payload @> '{"bad": true}')`,
  'a trigger': (s: string) => `${raising(s)};
    create trigger refuse before insert on ${s}.pgqrs_messages for each row execute function ${s}.refuse()`,
  'a trigger that leaves rows out': (s: string) => `
    create function ${s}.leave_out() returns trigger language plpgsql as $$
    begin
      return case when new.payload @> '{"bad": true}' then null else new end;
    end $$;
    create trigger leave_out before insert on ${s}.pgqrs_messages for each row execute function ${s}.leave_out()`,
  'a deferred constraint trigger': (s: string) => `${raising(s)};
    create constraint trigger refuse after insert on ${s}.pgqrs_messages deferrable initially deferred
    for each row execute function ${s}.refuse()`,
  // Out of range where an index wants an integer: PostgreSQL's message holds the number.
  'the type of an indexed expression': (s: string) => `
    create index on ${s}.pgqrs_messages (((case when payload @> '{"bad": true}'
      then '99999999999' || (payload->>'text') else '1' end)::int))`,
} as const;

export type ServerFault = keyof typeof SERVER_REFUSES;
export const SERVER_FAULTS = Object.keys(SERVER_REFUSES) as ServerFault[];

export async function refuseBad({ pool, schema }: Scenario, fault: ServerFault = 'a CHECK constraint') {
  await pool.query(SERVER_REFUSES[fault](schema));
}

/** At most one message with the same `text`. */
export async function uniqueTexts({ pool, schema }: Scenario): Promise<void> {
  await pool.query(`create unique index on ${schema}.pgqrs_messages ((payload->>'text'))`);
}

/** The field `n` of the queue's payloads in the order of delivery. */
export async function deliveredTo(
  { pool, schema }: Scenario,
  queue = 'work',
  field = 'n',
): Promise<number[]> {
  const { rows } = await pool.query<{ n: number }>(
    `select (payload->>'${field}')::int as n from ${schema}.pgqrs_messages m
     join ${schema}.pgqrs_queues q on q.id = m.queue_id where q.queue_name = $1 order by m.vt, m.id`,
    [queue],
  );
  return rows.map(({ n }) => n);
}

export interface RejectPayload {
  queue: string;
  index: number;
  code: string;
  reason: string;
  item?: unknown;
  text?: string;
}

/** Payloads of the queue of rejects in the order of delivery. */
export async function rejectsIn({ pool, schema }: Scenario, queue = 'bad'): Promise<RejectPayload[]> {
  const { rows } = await pool.query<{ payload: RejectPayload }>(
    `select payload from ${schema}.pgqrs_messages m
     join ${schema}.pgqrs_queues q on q.id = m.queue_id where q.queue_name = $1 order by m.vt, m.id`,
    [queue],
  );
  return rows.map(({ payload }) => payload);
}

/** The items with the bad ones at these places. */
export function* mixed(count: number, at: ReadonlyMap<number, unknown>): Generator {
  for (let n = 0; n < count; n++) yield at.has(n) ? at.get(n) : good(n);
}

export const without = (count: number, places: Iterable<number>): number[] => {
  const left = new Set(places);
  return Array.from({ length: count }, (_, n) => n).filter((n) => !left.has(n));
};

/** As they are reported: by batch, what was refused here before what the server refused. */
export function inOrderOfReport(rejects: readonly Reject[], batchSize: number): Reject[] {
  const batch = ({ index }: Reject) => Math.floor(index / batchSize);
  const byServer = ({ text }: Reject) => Number(text !== undefined);
  return [...rejects].sort((a, b) => batch(a) - batch(b) || byServer(a) - byServer(b) || a.index - b.index);
}

/** Each item of the source became exactly one thing. */
export function expectAddsUp(stats: {
  accepted: number;
  committed: number;
  duplicates: number;
  rejected: number;
}): void {
  expect(stats.committed + stats.duplicates + stats.rejected).toBe(stats.accepted);
  expect(stats.duplicates).toBeGreaterThanOrEqual(0);
}
