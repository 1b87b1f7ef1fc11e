import { expect, test } from 'vitest';
import { DEEDS } from './support/deeds.js';
import { type Block, connectAs, createRole, nameOf, type Privilege, privileges } from './support/roles.js';
import { scenario } from './support/scenario.js';

/** What fails first without each of the privileges, in the words of docs/privileges.md. */
type Needed = Record<string, string[]>;

const CASES: { block: Block; besides?: Block; needed: Needed }[] = [
  {
    block: 'producer',
    needed: {
      'find the queue': ['usage schema', 'select pgqrs_queues'],
      register: [
        'select pgqrs_workers',
        'insert (name, queue_id) pgqrs_workers',
        'update (queue_id, started_at, heartbeat_at, shutdown_at, status) pgqrs_workers',
        'insert (worker_id) sluice_workers',
      ],
      enqueue: [
        'insert (queue_id, producer_worker_id, origin, vt, payload) pgqrs_messages',
        'select (id) pgqrs_messages',
        'usage pgqrs_messages_id_seq',
      ],
      'ingest by copy': [
        'select sluice_streams',
        'insert (name, queue_id, worker_id) sluice_streams',
        'update (worker_id, seq, rows, position, updated_at) sluice_streams',
      ],
      resume: ['update (epoch) sluice_streams'],
      'leave nothing in the ledger': ['delete sluice_streams'],
    },
  },
  {
    block: 'producer-keys',
    besides: 'producer',
    needed: {
      'enqueue with a key': [
        'select sluice_dedupe',
        'insert (queue_id, key, expires_at) sluice_dedupe',
        'update (expires_at) sluice_dedupe',
      ],
      'delete old keys': ['delete sluice_dedupe'],
    },
  },
  {
    block: 'producer-backlog',
    besides: 'producer',
    needed: {
      'ingest with maxBacklog': [
        'select (queue_id, vt, archived_at, read_ct, consumer_worker_id) pgqrs_messages',
        'select (worker_id) sluice_workers',
      ],
    },
  },
  {
    block: 'producer-changes',
    besides: 'producer',
    needed: {
      cancel: ['select (queue_id, consumer_worker_id, archived_at) pgqrs_messages', 'delete pgqrs_messages'],
      reschedule: ['update (vt) pgqrs_messages'],
      extendVisibility: ['select (vt) pgqrs_messages'],
    },
  },
  {
    block: 'producer-replay',
    besides: 'producer',
    needed: {
      replay: [
        'select pgqrs_messages',
        'update (vt, enqueued_at, read_ct, dequeued_at, consumer_worker_id, archived_at) pgqrs_messages',
        'select (message_id) sluice_failures',
        'delete sluice_failures',
      ],
    },
  },
  {
    block: 'consumer',
    needed: {
      'find the queue': ['usage schema', 'select pgqrs_queues'],
      register: [
        'select pgqrs_workers',
        'insert (name, queue_id) pgqrs_workers',
        'update (queue_id, started_at, heartbeat_at, shutdown_at, status) pgqrs_workers',
        'insert (worker_id) sluice_workers',
      ],
      claim: [
        'select (worker_id) sluice_workers',
        'select pgqrs_messages',
        'update (vt, read_ct, dequeued_at, consumer_worker_id, origin) pgqrs_messages',
        'select sluice_queues',
      ],
      archive: ['update (archived_at) pgqrs_messages'],
      release: [
        'select sluice_failures',
        'insert (message_id, queue_id, reason, last_error, attempts) sluice_failures',
        'update (queue_id, reason, last_error, attempts, dead_at) sluice_failures',
      ],
      sweep: ['insert (dead_at) sluice_failures'],
    },
  },
  { block: 'consumer-delete', besides: 'consumer', needed: { delete: ['delete pgqrs_messages'] } },
  {
    block: 'consumer-retention',
    besides: 'consumer',
    needed: {
      'clear the archive': [
        'delete pgqrs_messages',
        'select (message_id) pgqrs_workflow_runs',
        'select sluice_walks',
        'insert (name) sluice_walks',
        'update (after_at, after_id, ended_at) sluice_walks',
      ],
    },
  },
  {
    block: 'admin',
    needed: {
      createQueue: [
        'usage schema',
        'select pgqrs_queues',
        'insert (queue_name) pgqrs_queues',
        'usage pgqrs_queues_id_seq',
      ],
      pauseQueue: [
        'update (id) pgqrs_queues',
        'select sluice_queues',
        'insert (queue_id, paused_at) sluice_queues',
        'update (paused_at) sluice_queues',
      ],
      setRetention: [
        'insert (archive_seconds, dead_letter_seconds) sluice_queues',
        'update (archive_seconds, dead_letter_seconds) sluice_queues',
      ],
      'deadLetters.list': ['select pgqrs_messages', 'select sluice_failures'],
      'deadLetters.replay': [
        'update (vt, enqueued_at, read_ct, dequeued_at, consumer_worker_id, archived_at) pgqrs_messages',
        'delete sluice_failures',
      ],
      'deadLetters.purge': ['delete pgqrs_messages', 'select (message_id) pgqrs_workflow_runs'],
      sweepExhausted: [
        'select pgqrs_workers',
        'select (worker_id) sluice_workers',
        'update (origin) pgqrs_messages',
        'insert (message_id, queue_id, reason, last_error, attempts, dead_at) sluice_failures',
        'update (queue_id, reason, last_error, attempts, dead_at) sluice_failures',
      ],
      listStreams: ['select sluice_streams'],
      deleteStream: ['delete sluice_streams'],
      'worker.heartbeat': ['update (heartbeat_at) pgqrs_workers'],
      'worker.suspend': ['update (status, shutdown_at) pgqrs_workers'],
      purgeWorkers: ['delete pgqrs_workers', 'select (worker_id) pgqrs_workflow_runs'],
      systemStats: ['select (version) sluice_migrations'],
      deleteQueue: ['delete pgqrs_queues', 'select (queue_id) pgqrs_workflows'],
      verify: ['select (version, checksum, success) _sqlx_migrations'],
    },
  },
  {
    block: 'install-check',
    besides: 'producer',
    needed: {
      'install with nothing to do': [
        'select (version, checksum, success) _sqlx_migrations',
        'select (version) sluice_migrations',
      ],
    },
  },
];

/** Care that a producer takes of what is over: it fails for nobody, and is left to whoever may. */
const UNHEARD = ['leave nothing in the ledger', 'delete old keys'];

test.each(CASES)(
  'all of $block is needed: without any one privilege something fails, and says of which table',
  { timeout: 120_000 },
  async ({ block, besides, needed }) => {
    const here = await scenario();
    const role = await createRole(here);
    const others = besides ? privileges(besides) : [];
    const deeds = Object.entries(DEEDS[block] ?? {});

    const firstFailure = async (may: readonly Privilege[]) => {
      await role.may([...others, ...may]);
      await using sluice = await connectAs(here, role);
      for (const [deed, run] of deeds) {
        const failure = await run({ test: here, sluice }).then(
          () => undefined,
          (error: unknown) => error as Error,
        );
        if (failure) return { deed, failure };
      }
      return undefined;
    };

    const all = privileges(block);
    expect(await firstFailure(all)).toBeUndefined();

    const found = new Map<string, Privilege[]>();
    for (const one of all) {
      const { deed, failure } = (await firstFailure(all.filter((other) => other !== one))) ?? {};
      found.set(deed ?? 'nothing', [...(found.get(deed ?? 'nothing') ?? []), one]);
      if (!deed || UNHEARD.includes(deed)) continue;
      expect(failure).toMatchObject({ code: 'PERMISSION_DENIED' });
      const [kind, object] = one.on === 'schema :schema' ? ['schema', here.schema] : objectOf(one);
      expect(failure?.message).toContain(`permission denied for ${kind} ${object} `);
    }
    expect(Object.fromEntries([...found].map(([deed, those]) => [deed, inWords(those)]))).toEqual(needed);
  },
);

function objectOf({ on }: Privilege): [kind: string, name: string] {
  const [name = '', kind = 'table'] = on.split(' ').reverse();
  return [kind, name.replace(':schema.', '')];
}

/** Columns of one kind on one object together, as the document has them. */
function inWords(all: readonly Privilege[]): string[] {
  const columns = new Map<string, string[]>();
  for (const one of all) {
    const name = nameOf({ ...one, column: one.column && '…' });
    columns.set(name, [...(columns.get(name) ?? []), one.column ?? '']);
  }
  return [...columns].map(([name, those]) => name.replace('…', those.join(', ')));
}
