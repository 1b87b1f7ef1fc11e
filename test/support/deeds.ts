import type { Consumer, Producer, Sluice } from '../../src/index.js';
import { put, putDead } from './dead-messages.js';
import { eventually } from './eventually.js';
import type { Block } from './roles.js';
import { numbered, type Scenario } from './scenario.js';

/** A schema, and a connection to it under the role that is tried. */
export interface Here {
  test: Scenario;
  sluice: Sluice;
}

/** Something that a role is there for, by its name; rejects when it cannot be done. May be done many times. */
export type Deeds = Record<string, (here: Here) => Promise<unknown>>;

const DAY_AGO = `now() - interval '1 day'`;

/** What the privileges of each block are for, in the order in which it is tried. */
export const DEEDS: Partial<Record<Block, Deeds>> = {
  producer: {
    'find the queue': ({ sluice }) => sluice.admin.getQueue('work'),
    register: (here) => producing(here, () => Promise.resolve()),
    enqueue: (here) => producing(here, (producer) => producer.enqueue({})),
    'ingest by copy': (here) => producing(here, ingesting({ method: 'copy', delaySeconds: 0 })),
    'ingest by insert': (here) => producing(here, ingesting({ method: 'insert', delaySeconds: 0 })),
    resume: (here) => producing(here, ingesting({ resume: 'daily' })),
    'leave nothing in the ledger': async (here) => {
      await producing(here, ingesting({}));
      await gone(here, 'sluice_streams', 'worker_id is not null');
    },
  },

  'producer-keys': {
    'enqueue with a key': (here) =>
      producing(here, (producer) => producer.enqueue({}, { dedupeKey: crypto.randomUUID() })),
    'delete old keys': async (here) => {
      const { pool, schema, queue } = here.test;
      await pool.query(
        `insert into ${schema}.sluice_dedupe (queue_id, key, expires_at) values (${queue.id}, gen_random_uuid(), ${DAY_AGO})`,
      );
      await producing(here, (producer) => producer.enqueue({}, { dedupeKey: crypto.randomUUID() }));
      await gone(here, 'sluice_dedupe', 'expires_at < now()');
    },
  },

  'producer-backlog': {
    'ingest with maxBacklog': (here) => producing(here, ingesting({ maxBacklog: 1_000_000 })),
  },

  'producer-changes': {
    cancel: (here) => producing(here, async (producer) => producer.cancel(await one(here))),
    reschedule: (here) =>
      producing(here, async (producer) => producer.reschedule(await one(here), { delaySeconds: 1 })),
    extendVisibility: (here) =>
      producing(here, async (producer) => producer.extendVisibility(await one(here), 1)),
  },

  'producer-replay': {
    replay: (here) => producing(here, async (producer) => producer.replay(await dead(here))),
  },

  consumer: {
    'find the queue': ({ sluice }) => sluice.admin.getQueue('work'),
    register: (here) => consuming(here, () => Promise.resolve()),
    claim: (here) => consuming(here, async (consumer) => claimed(here, consumer)),
    archive: (here) => consuming(here, async (consumer) => (await claimed(here, consumer)).archive()),
    release: (here) => consuming(here, async (consumer) => (await claimed(here, consumer)).release()),
    sweep: async (here) => housekeeping(here, await put(here.test, { count: 1, columns: { read_ct: '5' } })),
  },

  'consumer-delete': {
    delete: (here) => consuming(here, async (consumer) => (await claimed(here, consumer)).delete()),
  },

  'consumer-retention': {
    'clear the archive': async (here) => {
      await walksAnew(here);
      await here.test.sluice.admin.setRetention('work', { archiveSeconds: 60 });
      await housekeeping(here, await put(here.test, { count: 1, columns: { archived_at: DAY_AGO } }));
    },
    'clear dead letters': async (here) => {
      await walksAnew(here);
      await here.test.sluice.admin.setRetention('work', { deadLetterSeconds: 60 });
      await housekeeping(here, await putDead(here.test, 1, { age: `interval '1 day'` }));
    },
  },

  admin: {
    createQueue: ({ sluice }) => sluice.admin.createQueue('other', { ifExists: 'open' }),
    listQueues: ({ sluice }) => sluice.admin.listQueues(),
    pauseQueue: ({ sluice }) => sluice.admin.pauseQueue('work'),
    resumeQueue: ({ sluice }) => sluice.admin.resumeQueue('work'),
    setRetention: ({ sluice }) => sluice.admin.setRetention('work', { archiveSeconds: 60 }),
    queueSettings: ({ sluice }) => sluice.admin.queueSettings('work'),
    'deadLetters.list': ({ sluice }) => sluice.admin.deadLetters('work').list(),
    'deadLetters.replay': async (here) => here.sluice.admin.deadLetters('work').replay(await dead(here)),
    'deadLetters.purge': ({ sluice }) => sluice.admin.deadLetters('work').purge({ all: true }),
    'archive.list': ({ sluice }) => sluice.admin.archive('work').list(),
    'archive.purge': ({ sluice }) => sluice.admin.archive('work').purge({ all: true }),
    sweepExhausted: ({ sluice }) => sluice.admin.sweepExhausted(),
    listStreams: ({ sluice }) => sluice.admin.listStreams(),
    deleteStream: ({ sluice }) => sluice.admin.deleteStream('daily'),
    listWorkers: ({ sluice }) => sluice.admin.listWorkers(),
    'worker.heartbeat': async (here) => here.sluice.admin.worker(await worker(here)).heartbeat(),
    'worker.suspend': async (here) => here.sluice.admin.worker(await worker(here)).suspend(),
    reclaim: ({ sluice }) => sluice.admin.reclaim(),
    releaseWorkerMessages: ({ sluice }) => sluice.admin.releaseWorkerMessages('1'),
    workerMessages: ({ sluice }) => sluice.admin.workerMessages('1'),
    purgeWorkers: async (here) => {
      await worker(here, 'stopped');
      await here.sluice.admin.purgeWorkers();
    },
    deleteWorker: async (here) => here.sluice.admin.deleteWorker(await worker(here)),
    'messages.list': ({ sluice }) => sluice.admin.messages('work').list(),
    'messages.count': ({ sluice }) => sluice.admin.messages('work').count({ state: 'leased' }),
    getMessage: ({ sluice }) => sluice.admin.getMessage('1'),
    queueMetrics: ({ sluice }) => sluice.admin.queueMetrics('work'),
    allQueuesMetrics: ({ sluice }) => sluice.admin.allQueuesMetrics(),
    systemStats: ({ sluice }) => sluice.admin.systemStats(),
    workerHealthStats: ({ sluice }) => sluice.admin.workerHealthStats({ groupByQueue: true }),
    workerStats: ({ sluice }) => sluice.admin.workerStats('work'),
    purgeQueue: ({ sluice }) => sluice.admin.purgeQueue('work'),
    deleteQueue: async (here) => {
      await here.test.sluice.admin.createQueue('empty', { ifExists: 'open' });
      await here.sluice.admin.deleteQueue('empty');
    },
    verify: ({ sluice }) => sluice.admin.verify(),
  },

  'install-check': {
    'install with nothing to do': ({ sluice }) => sluice.admin.install(),
  },
};

async function producing({ sluice }: Here, work: (producer: Producer) => Promise<unknown>): Promise<void> {
  const producer = await sluice.producer('work');
  try {
    await work(producer);
  } finally {
    await producer.close();
  }
}

function ingesting(options: Parameters<Producer['ingest']>[1]) {
  return (producer: Producer) => producer.ingest(numbered(3), options);
}

async function consuming(
  { sluice }: Here,
  work: (consumer: Consumer) => Promise<unknown>,
  housekeepingIntervalSeconds = 3_600,
): Promise<void> {
  const consumer = await sluice.consumer('work', { housekeepingIntervalSeconds });
  try {
    await work(consumer);
  } finally {
    await consumer.close();
  }
}

async function claimed(here: Here, consumer: Consumer) {
  await one(here);
  const message = await consumer.dequeue();
  if (!message) throw new Error('nothing to claim');
  return message;
}

/** Rounds of a consumer's housekeeping until these messages are not as they were, or a round fails. */
async function housekeeping(here: Here, ids: readonly string[]): Promise<void> {
  const { pool, schema } = here.test;
  const look = async () => {
    const states = `select archived_at from ${schema}.pgqrs_messages where id = any ($1)`;
    return JSON.stringify((await pool.query(states, [ids])).rows);
  };
  const before = await look();
  const work = async (consumer: Consumer) => {
    const failed = new Promise<never>((_, reject) => consumer.once('housekeepingError', reject));
    const done = eventually('a round', async () => (await look()) !== before);
    await Promise.race([failed, done]);
  };
  await consuming(here, work, 0.01);
}

async function walksAnew({ test }: Here): Promise<void> {
  await test.pool.query(`delete from ${test.schema}.sluice_walks`);
}

async function gone({ test }: Here, table: string, which: string): Promise<void> {
  const { rows } = await test.pool.query(`select from ${test.schema}.${table} where ${which}`);
  if (rows.length > 0) throw new Error('rows stay');
}

async function one({ test }: Here): Promise<string> {
  return (await put(test, { count: 1 }))[0]!;
}

async function dead({ test }: Here): Promise<string> {
  return (await putDead(test, 1))[0]!;
}

/** A worker that has been silent for long. */
async function worker({ test }: Here, status = 'ready'): Promise<string> {
  const { rows } = await test.pool.query<{ id: string }>(
    `insert into ${test.schema}.pgqrs_workers (name, status, heartbeat_at)
     values (gen_random_uuid(), '${status}', '2000-01-01') returning id`,
  );
  return rows[0]!.id;
}
