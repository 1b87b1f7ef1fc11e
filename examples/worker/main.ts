// npm run example:worker: a worker as one deploys it, which ends in good order. See ../README.md.
import { Config, connect, type Consumer } from 'pg-sluice';
import { type Job, JOBS } from './jobs.js';
import { tryOut } from './try-out.js';

/** Below what the platform leaves a process between SIGTERM and SIGKILL: 30 s in Kubernetes, 10 s in Docker. */
const SHUTDOWN_SECONDS = Number(process.env.SHUTDOWN_SECONDS ?? 25);
/** Ctrl-C under npm comes twice: from the terminal, and passed on by npm. */
const SAME_SIGNAL_MS = 500;

const stop = new AbortController();
let registered = false;
let endingSinceMs = Infinity;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
// A closed terminal, or a log reader that died: a write that fails must not end the worker in the middle of something.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => stop.abort());

try {
  await main(stop.signal);
} catch (error) {
  console.error(inOneLine(error));
  process.exitCode = 1;
}

function end(signal: NodeJS.Signals): void {
  if (!registered) process.exit(130); // nothing has begun
  if (!stop.signal.aborted) {
    endingSinceMs = performance.now();
    console.log(`${signal}: no new messages; handlers have ${SHUTDOWN_SECONDS} s to end`);
    stop.abort();
  } else if (performance.now() - endingSinceMs > SAME_SIGNAL_MS) {
    console.error(`${signal} again: ended at once; what was under way comes back when its lease is over`);
    process.exit(1);
  }
}

async function main(signal: AbortSignal): Promise<void> {
  const job = jobCalled(process.env.QUEUE ?? 'webhooks');
  await using own = process.env.DATABASE_URL ? undefined : await tryOut(job.queue);
  const config = await Config.load({ dsn: own?.url ?? process.env.DATABASE_URL });
  await using sluice = await connect(config);
  registered = true; // perhaps, from here on
  // A lease is renewed while its handler runs: it is how long messages wait after this process has died.
  await using consumer = await sluice.consumer(job.queue, {
    lockSeconds: 30,
    maxReadCount: 8,
    backoff: { baseSeconds: 1, maxSeconds: 600 },
  });
  tell(consumer);
  if (signal.aborted) return;
  console.log(`Worker ${consumer.workerName} takes messages from "${job.queue}"; Ctrl-C ends it`);
  const { done, retried, dead, lost, released } = await job.run(consumer, {
    shutdownSeconds: SHUTDOWN_SECONDS,
    signal,
  });
  console.log(
    `Ended in order: ${done} done, ${retried} to retry, ${dead} dead, ${lost} lost, ${released} unfinished`,
  );
}

function jobCalled(queue: string): Job {
  const job = JOBS.find((one) => one.queue === queue);
  if (!job) throw new Error(`QUEUE must be ${JOBS.map((one) => one.queue).join(' or ')}; got ${queue}`);
  return job;
}

/** What an operator wants to read. None of these ends the worker: it goes on, or `run` rejects. */
function tell(consumer: Consumer): void {
  consumer.on('failed', ({ message: { id, readCount }, error, retrySeconds }) => {
    const next = retrySeconds === undefined ? 'now a dead letter' : `again in ${retrySeconds.toFixed(1)} s`;
    console.error(`message ${id}, delivery ${readCount}: ${inOneLine(causeOf(error))}; ${next}`);
  });
  consumer.on('leaseLost', ({ id }) =>
    console.error(`message ${id}: lost to somebody else, maybe done twice`),
  );
  consumer.on('deaf', (reason) =>
    console.error(`notifications do not arrive, polling: ${inOneLine(reason)}`),
  );
  for (const event of ['claimError', 'heartbeatError', 'housekeepingError'] as const)
    consumer.on(event, (error) => console.error(`${event}: ${inOneLine(error)}`));
}

function causeOf(error: unknown): unknown {
  return (error instanceof Error && error.cause) || error;
}

function inOneLine(error: unknown): string {
  return String(error).replaceAll(/\s*\n\s*/g, ' ');
}
