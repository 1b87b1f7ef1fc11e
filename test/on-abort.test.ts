import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { onAbort } from '../src/on-abort.js';

test('all who wait share one listener, each is called once, and the last one that stops takes it away', () => {
  const { signal, ...abort } = controller();
  const called: string[] = [];
  const stops = ['a', 'b', 'c'].map((name) => onAbort(signal, () => called.push(name)));
  expect(getEventListeners(signal, 'abort')).toHaveLength(1);
  stops[1]!();
  abort.now();
  expect(called).toEqual(['a', 'c']);
  expect(onAbort(signal, () => called.push('late'))).toBeTypeOf('function');
  expect(called).toEqual(['a', 'c', 'late']);
});

test('to stop twice leaves alone those who wait since', () => {
  const { signal, ...abort } = controller();
  const called: string[] = [];
  const stop = onAbort(signal, () => called.push('first'));
  stop();
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  onAbort(signal, () => called.push('second'));
  stop();
  expect(getEventListeners(signal, 'abort')).toHaveLength(1);
  abort.now();
  expect(called).toEqual(['second']);
});

function controller() {
  const abort = new AbortController();
  return { signal: abort.signal, now: () => abort.abort() };
}
