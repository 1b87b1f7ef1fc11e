import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { installAsPgqrs, pgqrsSession, sqlxLock } from '../support/pgqrs-install.js';
import { spied } from '../support/spied.js';
import { catalogue, findings, type Home, home } from './support.js';

/** A schema that exists and is empty, as pgqrs needs it. */
async function emptySchema(): Promise<Home> {
  const here = await home();
  await here.sql(`create schema ${here.s}`);
  return here;
}

test("pgqrs' install and two of ours at the same moment all succeed", async () => {
  for (let round = 0; round < 6; round++) {
    const here = await emptySchema();
    const theirs = await pgqrsSession(here);
    const another = await here.another();
    await within(
      30_000,
      'three installs',
      Promise.all([installAsPgqrs(theirs), here.admin.install(), another.install()]),
    );
    await here.admin.verify();
    await installAsPgqrs(theirs);
    await here.admin.verify();
  }
});

test("pgqrs' install that is under way is waited for, before its first table and after its last but one", async () => {
  for (const at of [1, 4]) {
    const here = await emptySchema();
    const theirs = await pgqrsSession(here);
    let ours: Promise<void> | undefined;
    await installAsPgqrs(theirs, '0.15.3', async (version) => {
      if (version !== at) return;
      ours = here.admin.install();
      await eventually('ours asks for the lock', async () => {
        const { rows } = await here.pool.query(`select from pg_stat_activity
          where pid <> pg_backend_pid() and query like '%sluice:try_pgqrs_install_lock%'`);
        return rows.length > 0;
      });
    });
    await within(30_000, 'ours', ours!);
    await here.admin.verify();
  }
});

test('a lock that a failed install of pgqrs left behind is not waited for for ever', async () => {
  // The lock is one for a whole database: in one of its own it stands in no other test's way.
  const server = await home();
  const database = `race_${server.schema}`;
  await server.sql(`create database ${database}`);
  onTestFinished(async () => {
    await server.sql(`drop database ${database} with (force)`);
  });
  const url = new URL(server.url);
  url.pathname = database;
  const admin = await server.another(url.href);
  await sqlxLock(await pgqrsSession({ url: url.href, schema: server.schema }), 'lock');
  await within(30_000, 'install', admin.install());
  await admin.verify();
});

test('what another client makes between our look and our statement is looked at again', async () => {
  const here = await emptySchema();
  const { sluice, answered } = await spied(here as never);
  const make = () =>
    here.sql(
      `create type ${here.s}.worker_status as enum ('ready', 'polling', 'suspended', 'interrupted', 'stopped')`,
    );
  // The third look is the last before the first statement.
  const look = (times: number) =>
    answered('read_catalogue', async () => {
      if (times > 1) look(times - 1);
      else await make();
    });
  look(3);
  await sluice.admin.install();
  await here.admin.verify();
});

test("a database of pgqrs' main branch, with more statuses of workflows, is taken over, and its migration stays", async () => {
  const here = await emptySchema();
  const theirs = await pgqrsSession(here);
  await installAsPgqrs(theirs, 'main');
  await here.sql(`insert into ${here.s}.pgqrs_queues (queue_name) values ('work')`);
  await here.admin.install();
  expect(await findings(here.admin)).toEqual([]);
  await installAsPgqrs(theirs, 'main');
  expect(
    await here.sql(
      `select left(encode(checksum, 'hex'), 4) as checksum from ${here.s}._sqlx_migrations where version = 6`,
    ),
  ).toEqual([{ checksum: 'da76' }]);
  expect(
    await here.sql(`select enumlabel as label from pg_enum where enumtypid = '${here.s}.pgqrs_workflow_status'::regtype
      order by enumsortorder offset 5`),
  ).toEqual([{ label: 'CANCELLING' }, { label: 'CANCELLED' }]);
  const sluice = await connect({ dsn: here.url, schema: here.schema });
  await (await sluice.producer('work')).enqueue(1);
  await sluice.close();
  await here.admin.uninstall();
  expect(await catalogue(here)).toEqual([]);
});
