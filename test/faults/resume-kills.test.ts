import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { numbers } from '../ingest/support.js';
import type { Orders } from '../support/child-ingest.js';
import { type Child, startChild } from '../support/child-process.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { seeded, seedOfRun } from '../support/seeded.js';
import { FULL } from '../support/total-queue.js';

const seed = seedOfRun();
const random = seeded(seed);
/** Of each of the three kinds of sources. */
const KILLS = Math.ceil(Number(process.env.SLUICE_KILLS ?? (FULL ? 50 : 6)) / 3);
const ROWS_PER_KILL = 800;
const ROWS = (KILLS + 1) * ROWS_PER_KILL;
const NAME = 'load';

async function file(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-kills-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const path = join(folder, 'source');
  await writeFile(path, [...numbered(ROWS)].map((item) => `${JSON.stringify(item)}\n`).join(''));
  return path;
}

const SOURCES: Record<string, () => Promise<Partial<Orders>>> = {
  'a source that is opened behind a count': () => Promise.resolve({ rows: ROWS }),
  'a source whose beginning is read over': () => Promise.resolve({ rows: ROWS, readOver: true }),
  'a file that is opened at a byte offset': async () => ({ file: await file() }),
};

test.each(Object.keys(SOURCES))(
  `%s: killed ${KILLS} times and started again until it is through, each row is there once and in order (SLUICE_SEED=${seed})`,
  { timeout: 30_000 + KILLS * 10_000 },
  async (kind) => {
    const { sluice, url, schema, delivered } = await scenario();
    const source = await SOURCES[kind]!();
    const start = (): Child => {
      const orders = {
        ...source,
        batchSize: 10 + Math.floor(random() * 40),
        concurrency: 1 + Math.floor(random() * 4),
      };
      return startChild('child-ingest.ts', url, schema, NAME, JSON.stringify(orders));
    };
    const rows = async () => (await sluice.admin.getStream(NAME))?.rows ?? 0;

    let next = start();
    for (let kill = 0; kill < KILLS; kill++) {
      const moment = Math.floor((kill + random()) * ROWS_PER_KILL);
      const child = next;
      child.process.send('go');
      // The next one gets ready meanwhile.
      next = start();
      await eventually('the moment of the kill', async () => (await rows()) >= moment, 30_000);
      for (let turns = random() * 300; turns > 0; turns--) await new Promise(setImmediate);
      child.process.kill('SIGKILL');
      // null: it did not end by itself.
      expect(await child.exit()).toBeNull();
      const committed = await rows();
      expect(committed).toBeGreaterThanOrEqual(moment);
      expect(committed).toBeLessThan(ROWS);
    }

    next.process.send('go');
    const { committed } = (await next.next(30_000)) as { committed: number };
    expect(await next.exit()).toBe(0);
    expect(committed).toBeLessThanOrEqual(2 * ROWS_PER_KILL);
    expect(await delivered()).toEqual(numbers(ROWS));
    expect(await sluice.admin.getStream(NAME)).toMatchObject({ rows: ROWS, run: KILLS + 1 });
  },
);
