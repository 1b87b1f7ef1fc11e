import { DatabaseError, QueueNotFoundError, type WorkerFencedError } from '../errors/index.js';
import { RAISED } from '../sql/statement.js';

/** What it means when `sluice_pin` did not find the queue or the worker; any other error stays as it is. */
export function translateGone(error: unknown, queueName: string, fenced: () => WorkerFencedError): unknown {
  if (!(error instanceof DatabaseError)) return error;
  if (error.sqlState === RAISED.queueGone) return new QueueNotFoundError(queueName);
  if (error.sqlState === RAISED.workerGone) return fenced();
  return error;
}
