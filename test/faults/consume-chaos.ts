import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished } from 'vitest';
import { connect, type Sluice } from '../../src/index.js';
import { type Child, startChild } from '../support/child-process.js';
import type { WorkerNews, WorkerOrders } from '../support/child-worker.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { seeded } from '../support/seeded.js';
import { FULL, report, seedOf } from '../support/total-queue.js';

export const CHAOS_MS = FULL ? 60_000 : 4_000;
const BETWEEN_FAULTS_MS = 300;
const WORKERS = FULL ? 4 : 3;
/** Started, and waiting for their turn. */
const SPARES = FULL ? 2 : 1;
const LOCK_SECONDS = 1;
/**
 * Each of the three producers gives so many at once, once a second: whoever is killed then has something in hand, and
 * in between the messages whose leases have run out get their turn, behind all others.
 */
const BURST = 50;

/** What a producer was told of its messages, which are the numbers `3 * i + place`. */
interface Produced {
  given: Set<number>;
  acknowledged: Set<number>;
}

/** What a history has to be without; see `judge`. */
export const NONE = {
  ...{ lost: [], unexpected: [], enqueuedTwice: [], unhandled: [] },
  ...{ acceptedTwice: [], wronglyAccepted: [], dead: [] },
};

/**
 * Producers and, in processes of their own, consumers, which are killed, frozen for longer than their leases, and cut
 * off from the server. Then all that is left is consumed in peace, and the tables are asked what has happened.
 */
export async function chaos(name: string, by: readonly WorkerOrders['by'][]) {
  const s = await scenario();
  const random = seeded(seedOf(name));
  for (const table of ['effects', 'accepted', 'refused'])
    await s.pool.query(`create table ${s.schema}.${table} (n int, worker bigint, read_ct int)`);
  const url = new URL(s.url);
  url.searchParams.set('application_name', `chaos-${s.schema}`);
  const cutSome = () =>
    s.pool.query(
      `select pg_terminate_backend(pid) from (
         select pid from pg_stat_activity where application_name = $1 order by random() limit 3) as victims`,
      [`chaos-${s.schema}`],
    );

  const workers = new Workers(s, url.href, by);
  await workers.start();
  const sluice = await connect({ dsn: url.href, schema: s.schema });
  onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
  const over = new AbortController();
  const producing = produce(sluice, over.signal);
  producing.catch(() => undefined);

  const faults = { kills: 0, freezes: 0, cuts: 0 };
  const began = performance.now();
  // Until there was some of each: or it would be a fair-weather run.
  while (performance.now() < began + CHAOS_MS || Object.values(faults).includes(0)) {
    await delay(BETWEEN_FAULTS_MS * 2 * random());
    const dice = random();
    if (dice < 0.3) faults.kills += workers.kill(random()) ? 1 : 0;
    else if (dice < 0.6) faults.freezes += workers.freeze(random()) ? 1 : 0;
    else faults.cuts += (await cutSome()).rowCount ?? 0;
  }
  over.abort();
  const produced = await within(30_000, 'the producers', producing);
  const peace = performance.now();
  const left = `select from ${s.schema}.pgqrs_messages where archived_at is null limit 1`;
  await eventually(
    'all of them to be archived',
    async () => (await s.pool.query(left)).rowCount === 0,
    120_000,
  );
  const drainMs = Math.round(performance.now() - peace);
  const ended = await workers.end();

  const found = await judge(s, produced);
  report(name, { ...faults, drainMs, ...found.counts, ended });
  expect(workers.diedThemselves).toEqual([]);
  expect(found.counts.redelivered).toBeGreaterThan(0);
  return found;
}

/** Two that stream and one that enqueues, until the signal. */
async function produce(sluice: Sluice, signal: AbortSignal): Promise<Produced> {
  const given = new Set<number>();
  const acknowledged = new Set<number>();
  async function* numbersOf(place: number) {
    for (let i = 0; !signal.aborted; i++) {
      const n = 3 * i + place;
      given.add(n);
      yield { n };
      if (i % BURST === BURST - 1) await delay(1_000);
    }
  }
  const producer = await sluice.producer<{ n: number }>('work');
  const stream = async (place: number) => {
    const mine: number[] = [];
    const source = async function* () {
      for await (const item of numbersOf(place)) {
        mine.push(item.n);
        yield item;
      }
    };
    const { committed } = await producer.ingest(source(), {
      ...{ batchSize: 50, lingerMs: 20, retries: 1_000, retryMaxMs: 200 },
    });
    expect(committed).toBe(mine.length);
    for (const n of mine) acknowledged.add(n);
  };
  const single = async () => {
    for await (const item of numbersOf(2))
      await producer.enqueue(item).then(
        () => acknowledged.add(item.n),
        () => undefined, // its connection was cut: it may be in
      );
  };
  await Promise.all([stream(0), stream(1), single()]);
  return { given, acknowledged };
}

/** Consumers in processes of their own; for each that is killed another one takes over under a new name. */
class Workers {
  readonly diedThemselves: (number | null)[] = [];
  readonly #active: Child[] = [];
  readonly #spares: Child[] = [];
  /** That those that work have registered. */
  readonly #ready = new Map<Child, Promise<unknown>>();
  readonly #frozen = new Set<Child>();
  readonly #dying = new Set<Child>();
  #started = 0;

  constructor(
    private readonly s: Scenario,
    private readonly url: string,
    private readonly by: readonly WorkerOrders['by'][],
  ) {}

  async start(): Promise<void> {
    for (let n = 0; n < WORKERS + SPARES; n++) this.#spawn();
    for (let n = 0; n < WORKERS; n++) {
      await eventually('a process', () => this.#spares.length > 0, 60_000);
      this.#promote();
    }
    await Promise.all([...this.#ready.values()]);
  }

  kill(random: number): boolean {
    const child = this.#active[Math.floor(random * this.#active.length)];
    if (!child || !this.#promote()) return false;
    this.#dying.add(child);
    this.#active.splice(this.#active.indexOf(child), 1);
    child.process.kill('SIGKILL');
    this.#spawn();
    return true;
  }

  /** For longer than its leases last. */
  freeze(random: number): boolean {
    const child = this.#active[Math.floor(random * this.#active.length)];
    if (!child || this.#frozen.size * 2 >= WORKERS || this.#frozen.has(child)) return false;
    this.#frozen.add(child);
    child.process.kill('SIGSTOP');
    setTimeout(() => this.#thaw(child), LOCK_SECONDS * 1_000 * (1.2 + random));
    return true;
  }

  /** All of them, in order. @returns what they have counted */
  async end(): Promise<Record<string, number>> {
    for (const child of this.#frozen) this.#thaw(child);
    for (const child of this.#spares) {
      this.#dying.add(child);
      child.process.kill('SIGKILL');
    }
    const totals: Record<string, number> = {};
    for (const child of this.#active) await this.#ready.get(child);
    for (const child of this.#active) child.process.kill('SIGTERM');
    for (const child of this.#active) {
      const { ended = {} } = (await child.next()) as WorkerNews;
      for (const [key, n] of Object.entries(ended)) totals[key] = (totals[key] ?? 0) + Number(n);
      expect(await child.exit()).toBe(0);
    }
    return totals;
  }

  #thaw(child: Child): void {
    this.#frozen.delete(child);
    child.process.kill('SIGCONT');
  }

  #promote(): Child | undefined {
    const child = this.#spares.shift();
    if (!child) return undefined;
    child.process.send('go');
    this.#active.push(child);
    const ready = child.next(60_000);
    ready.catch(() => undefined);
    this.#ready.set(child, ready);
    return child;
  }

  #spawn(): void {
    const orders: WorkerOrders = {
      ...{ by: this.by[this.#started++ % this.by.length]!, lockSeconds: LOCK_SECONDS },
      ...{ concurrency: 5, prefetch: 10 },
    };
    const child = startChild('child-worker.ts', this.url, this.s.schema, JSON.stringify(orders));
    child.process.on('exit', (code) => {
      if (code === 0 || this.#dying.has(child)) return;
      this.diedThemselves.push(code);
      this.#active.splice(this.#active.indexOf(child), 1);
    });
    child.next(60_000).then(
      () => this.#spares.push(child),
      () => undefined,
    );
  }
}

/** What the tables tell against what was told. */
async function judge({ pool, schema }: Scenario, { given, acknowledged }: Produced) {
  const ask = async (query: string): Promise<number[]> =>
    (await pool.query<{ n: number }>(query.replaceAll('%s', schema))).rows.map(({ n }) => n);
  const archived = `(select (payload->>'n')::int as n, consumer_worker_id as worker, read_ct
    from %s.pgqrs_messages where archived_at is not null) archived`;
  const there = await ask(`select n from ${archived}`);
  const were = new Set(there);
  const twice = (table: string) => ask(`select n from ${table} group by n having count(*) > 1`);
  const effectsTwice = await twice('%s.effects');
  const count = async (query: string) => (await ask(`select count(*)::int as n ${query}`))[0];
  return {
    effectsTwice: effectsTwice.slice(0, 5),
    /** Told as lost, though it was this delivery that was accepted. */
    wronglyRefused: await ask(
      `select n from %s.refused where (n, worker, read_ct) in (select n, worker, read_ct from ${archived})`,
    ),
    counts: {
      given: given.size,
      acknowledged: acknowledged.size,
      recovered: there.filter((n) => !acknowledged.has(n)).length,
      redelivered: await count(`from ${archived} where read_ct > 1`),
      handledTwice: effectsTwice.length,
      effects: await count('from %s.effects'),
      archived: there.length,
      accepted: await count('from %s.accepted'),
      refused: await count('from %s.refused'),
    },
    faults: {
      lost: [...acknowledged].filter((n) => !were.has(n)),
      unexpected: there.filter((n) => !given.has(n)),
      enqueuedTwice: await twice(archived),
      /** Done, though the delivery that was accepted had not been handled. */
      unhandled: await ask(
        `select n from ${archived} where (n, worker, read_ct) not in (select n, worker, read_ct from %s.effects)`,
      ),
      acceptedTwice: await twice('%s.accepted'),
      /** Told as accepted, though the message was done by another delivery. */
      wronglyAccepted: await ask(
        `select n from %s.accepted where (n, worker, read_ct) not in (select n, worker, read_ct from ${archived})`,
      ),
      dead: await ask('select message_id::int as n from %s.sluice_failures'),
    },
  };
}
