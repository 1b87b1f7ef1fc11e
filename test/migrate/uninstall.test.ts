import { describe, expect, test } from 'vitest';

import { home, installed, catalogue } from './support.js';

describe('uninstall', () => {
  test('leaves nothing of ours and all that is not, and may be called again', async () => {
    const here = await home();
    await here.sql(
      `create schema ${here.s}; create table ${here.s}.orders (id serial primary key, total int)`,
    );
    const before = await catalogue(here);
    await here.admin.install();
    await here.admin.createQueue('work');
    await here.admin.uninstall();
    expect(await catalogue(here)).toEqual(before);
    await here.admin.uninstall();
    expect(await catalogue(here)).toEqual(before);
    await here.admin.install();
    await here.admin.verify();
  });

  test('of a schema that is not there is nothing', async () => {
    const { admin } = await home();
    await admin.uninstall();
  });

  test("another application's migrations stay in the bookkeeping", async () => {
    const { admin, s, sql } = await installed();
    await sql(`insert into ${s}._sqlx_migrations values (7, 'theirs', now(), true, '\\x00', 1)`);
    await admin.uninstall();
    expect(await sql(`select version::int from ${s}._sqlx_migrations`)).toEqual([{ version: 7 }]);
    await admin.uninstall();
    await admin.install();
    await admin.verify();
  });

  test('what somebody built on our tables is not torn down: nothing is removed', async () => {
    const here = await installed();
    await here.sql(`create view ${here.s}.depth as select count(*) from ${here.s}.pgqrs_messages`);
    const before = await catalogue(here);
    await expect(here.admin.uninstall()).rejects.toThrow(/other objects depend on it/);
    expect(await catalogue(here)).toEqual(before);
  });
});
