import { integer } from '../check.js';

/** pgqrs' delays are unsigned 32-bit seconds. */
const MAX_DELAY_SECONDS = 4_294_967_295;

/** Checks an option or one item's delay. */
export function checkDelay(seconds: unknown, index?: number): number {
  const field = index === undefined ? 'delaySeconds' : `delaySeconds of the item at index ${index}`;
  return integer(field, seconds, { min: 0, max: MAX_DELAY_SECONDS });
}
