import type pg from 'pg';
import { Db } from './db.js';
import { Listener } from './listener.js';

/** What workers share that are made one by one over a pool of the caller's. */
export interface OverPool {
  db: Db;
  /** Connects when the first one subscribes. */
  listener: Listener;
}

interface Shared extends OverPool {
  users: number;
}

const shared = new WeakMap<pg.Pool, Map<string, Shared>>();

/**
 * The small pool beside the caller's and the connection for notifications, one of each however many workers there are.
 * @returns `leave` too: the last one who does closes both
 */
export function overPool(pool: pg.Pool, schema: string): OverPool & { leave: () => Promise<void> } {
  const ofPool = shared.get(pool) ?? new Map<string, Shared>();
  shared.set(pool, ofPool);
  const one = ofPool.get(schema) ?? opened(pool, schema);
  ofPool.set(schema, one);
  one.users++;
  let left: Promise<void> | undefined;
  return { db: one.db, listener: one.listener, leave: () => (left ??= leave(ofPool, schema, one)) };
}

function opened(pool: pg.Pool, schema: string): Shared {
  const db = Db.over(pool, schema);
  return { db, listener: new Listener(db), users: 0 };
}

async function leave(ofPool: Map<string, Shared>, schema: string, one: Shared): Promise<void> {
  if (--one.users > 0) return;
  ofPool.delete(schema);
  await one.listener.close();
  await one.db.close();
}
