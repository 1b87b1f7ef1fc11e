import { onTestFinished } from 'vitest';
import { connect, type ConfigOptions, type Sluice } from '../../src/index.js';
import { within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { type Pooler, startPooler } from './pgbouncer.js';

export interface Pooled extends Scenario {
  pooler: Pooler;
  /** Connected through the pooler, as `producer` and `consumer` are; `pool` is not. */
  sluice: Sluice;
  /** One more like it. */
  another: () => Promise<Sluice>;
}

/** A scenario that reaches the server through a pooler of its own, and only listens directly. */
export async function pooled(settings: Omit<ConfigOptions, 'dsn' | 'schema'> = {}): Promise<Pooled> {
  const direct = await scenario();
  const pooler = await startPooler(direct.url);
  const another = async () => {
    const sluice = await connect(
      { dsn: pooler.url, schema: direct.schema, ...settings },
      { listenUrl: direct.url },
    );
    onTestFinished(() => within(20_000, 'closing', sluice.close()));
    return sluice;
  };
  const sluice = await another();
  return {
    ...direct,
    pooler,
    sluice,
    another,
    producer: (options) => sluice.producer('work', options),
    consumer: (options) => sluice.consumer('work', options),
  };
}
