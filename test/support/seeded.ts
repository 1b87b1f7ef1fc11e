/** Numbers from 0 to 1, the same ones for the same seed. */
export function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The seed of a run: `SLUICE_SEED` plays one again. Whoever uses it says which one it was. */
export function seedOfRun(): number {
  const given = process.env.SLUICE_SEED;
  return given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number.parseInt(given);
}
