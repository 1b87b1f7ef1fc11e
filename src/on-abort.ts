/** What is to be done when a signal aborts. */
const waiting = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls `work` once when `signal` aborts, at once where it has. All who wait for the same signal share one listener on
 * it: thousands may, and from the eleventh on Node warns of a leak.
 * @returns what ends the wait
 */
export function onAbort(signal: AbortSignal, work: () => void): () => void {
  if (signal.aborted) {
    work();
    return () => undefined;
  }
  const works = waiting.get(signal) ?? listening(signal);
  // Its own function, since the same `work` may wait twice.
  const mine = () => work();
  works.add(mine);
  return () => {
    // Called twice it must not end what others wait for since.
    if (!works.delete(mine) || works.size > 0) return;
    signal.removeEventListener('abort', abort);
    waiting.delete(signal);
  };
}

function listening(signal: AbortSignal): Set<() => void> {
  const works = new Set<() => void>();
  waiting.set(signal, works);
  signal.addEventListener('abort', abort, { once: true });
  return works;
}

function abort(this: AbortSignal): void {
  const works = waiting.get(this);
  waiting.delete(this);
  for (const work of works ?? []) work();
}
