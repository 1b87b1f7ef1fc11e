import { DeadLetter, type HandlerContext, type Message, RetryAfter } from 'pg-sluice';

export interface Webhook {
  url: string;
  body: unknown;
}

/** Answers after which trying again is of no use. */
const HOPELESS = new Set([400, 401, 403, 404, 405, 410, 422]);

/**
 * At least once: the receiver knows a second delivery by its id. Returns: done. Throws: tried again, later each time,
 * until it is a dead letter.
 */
export async function deliver({ id, payload }: Message<Webhook>, { signal }: HandlerContext): Promise<void> {
  const response = await fetch(payload.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': id },
    body: JSON.stringify(payload.body),
    // Ends the request when the lease is lost, or the time of a shutdown is over: then the message goes back.
    signal: AbortSignal.any([signal, AbortSignal.timeout(20_000)]),
  });
  await response.body?.cancel();
  if (response.ok) return;
  const answer = `the receiver answered ${response.status}`;
  const seconds = Number(response.headers.get('retry-after'));
  if (seconds > 0) throw new RetryAfter(seconds, { cause: new Error(answer) });
  if (HOPELESS.has(response.status)) throw new DeadLetter(answer);
  throw new Error(answer);
}
