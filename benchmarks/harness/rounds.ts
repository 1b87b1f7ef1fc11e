/** A contender: one run of it, in ms. */
export interface Contender {
  name: string;
  run(): Promise<number>;
}

export interface Measured {
  name: string;
  /** Milliseconds of each round, in order. */
  ms: number[];
}

/** Runs every contender once per round, in turn and each round starting with another, so that noise hits all alike. */
export async function interleave(
  rounds: number,
  contenders: readonly Contender[],
  between: () => Promise<void>,
): Promise<Measured[]> {
  const measured = contenders.map(({ name }) => ({ name, ms: [] as number[] }));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const at = (round + turn) % contenders.length;
      await between();
      measured[at]?.ms.push((await contenders[at]?.run()) ?? NaN);
    }
  }
  return measured;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? NaN)) / 2;
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** How many times as long the one took as the other: the median of each round's ratio, which noise of a round leaves alone. */
export function medianRatio(ms: readonly number[], against: readonly number[]): number {
  return median(ms.map((each, round) => each / (against[round] ?? NaN)));
}
