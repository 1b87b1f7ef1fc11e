import { MultiBar, Presets, type SingleBar } from 'cli-progress';

/** One bar per side; on a terminal they move, elsewhere a line per second says the same. */
export class Progress {
  readonly #bars: MultiBar;
  readonly #started = new Map<SingleBar, number>();

  constructor() {
    this.#bars = new MultiBar(
      {
        format: '{name} {bar} {percentage}% | {value}/{total} | {rate} rows/s',
        hideCursor: true,
        noTTYOutput: true,
        notTTYSchedule: 1_000,
        linewrap: false,
      },
      Presets.shades_classic,
    );
  }

  add(name: string, total: number): SingleBar {
    return this.#bars.create(total, 0, { name, rate: '-' });
  }

  update(bar: SingleBar, count: number): void {
    const now = performance.now();
    const started = this.#started.get(bar) ?? now;
    this.#started.set(bar, started);
    const rate = now > started ? Math.round((count / (now - started)) * 1_000).toLocaleString('en') : '-';
    bar.update(count, { rate });
  }

  /** Twice is fine. */
  stop(): void {
    if (this.#bars.isActive) this.#bars.stop();
  }
}
