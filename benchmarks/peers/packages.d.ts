// What we use of our peers. Their own types are out of reach for the reason given in harness/echarts.d.ts.
declare module 'graphile-worker' {
  import type { Pool } from 'pg';

  interface Options {
    pgPool: Pool;
    schema: string;
    logger: SomeLogger;
    noHandleSignals: true;
    taskList?: Record<string, () => void>;
    preset?: {
      worker: {
        concurrentJobs: number;
        localQueue: { size: number };
        completeJobBatchDelay: number;
        failJobBatchDelay: number;
      };
    };
  }

  /** Only to be handed on. */
  interface SomeLogger {
    readonly debug: unknown;
  }
  export const Logger: new (factory: () => () => void) => SomeLogger;

  export function runMigrations(options: Options): Promise<void>;
  export function run(options: Options): Promise<{ stop(): Promise<void> }>;
}

// Versions 10 to 12.
declare module 'pg-boss' {
  interface Job {
    id: string;
  }

  class Boss {
    constructor(options: {
      connectionString: string;
      schema: string;
      max: number;
      supervise: boolean;
      schedule: boolean;
    });
    on(event: 'error', listener: (error: Error) => void): this;
    start(): Promise<unknown>;
    stop(options: { graceful: boolean; close?: boolean; wait?: boolean }): Promise<void>;
    createQueue(name: string): Promise<void>;
    /** Version 10. */
    insert(jobs: { name: string; data: object }[]): Promise<unknown>;
    insert(name: string, jobs: { data: object }[]): Promise<unknown>;
    fetch(name: string, options: { batchSize: number }): Promise<Job[]>;
    complete(name: string, ids: string[]): Promise<unknown>;
  }

  /** Since version 12. */
  export const PgBoss: typeof Boss | undefined;
  /** Until then. */
  export { Boss as default };
}
