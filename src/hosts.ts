import { setMaxListeners } from 'node:events';
import { backoffMs, sleep } from './backoff.js';
import { deferred, orAbort, withDeadline } from './deferred.js';
import { isUnresolved } from './driver-error.js';
import { type HostAddress, parseHosts, type Target } from './dsn-hosts.js';
import { ClosedError, ConnectionError, SluiceError, TimeoutError } from './errors/index.js';
import { probe } from './hosts-probe.js';
import type { HostState } from './sql/host-state.js';

/** A host for as long as it is the one to use. */
export interface Place extends HostAddress {
  /** Aborts when the host turns out to be the wrong one: whoever is connected to it must go. */
  readonly left: AbortSignal;
}

interface Host extends HostAddress {
  /** Whether it let the time for an answer pass last time: then nobody waits for it while another one will do. */
  silent: boolean;
  probing: Promise<HostState | SluiceError> | undefined;
  place: (Place & { timeline: number | null; leave: (reason: Error) => void }) | undefined;
}

type Answers = Map<Host, HostState | SluiceError>;

/** How long a host counts as the right one without being asked again. Only new connections ask. */
const FRESH_MS = 1_000;
const PACE = { baseMs: 50, maxMs: 500 };

/** The highest timeline of each database cluster that this process has ever seen, in whatever connection. */
const seenTimelines = new Map<string, number>();

/** What keeps a server from being used; undefined where nothing does. */
const REFUSALS: Record<Target, (state: HostState) => string | undefined> = {
  any: () => undefined,
  'read-write': ({ inRecovery, readOnlyByDefault }) =>
    inRecovery ? 'is a standby' : readOnlyByDefault ? 'is read-only by default' : undefined,
  'read-only': ({ inRecovery, readOnlyByDefault }) =>
    inRecovery || readOnlyByDefault ? undefined : 'is read-write',
  primary: ({ inRecovery }) => (inRecovery ? 'is a standby' : undefined),
  standby: ({ inRecovery }) => (inRecovery ? undefined : 'is a primary'),
  'prefer-standby': () => undefined,
};

/**
 * The hosts of one database, of which one at a time is used. All are asked what they are, at once, whenever a
 * connection is to be opened and the last answers are older than a second or in doubt. An answer that rules out the
 * host that was in use ends all connections to it; so does another host's answer that it was promoted since.
 *
 * Where writes go, a host on an older timeline than one of the others, or than any this process has seen, is an old
 * primary that came back. A host of another database cluster is never used.
 */
export class Hosts {
  /** Of a host alone: for what the driver must know before the host is found. */
  readonly #url: string;
  readonly #hosts: readonly Host[];
  readonly #closing = new AbortController();
  #system: string | undefined;
  /** The highest seen here: all there is where the server does not tell its cluster. */
  #timeline = 0;
  #found: { place: Place; until: number } | undefined;
  #looking: Promise<Place | undefined> | undefined;
  #doubts = 0;
  /** One of them was the right one before. */
  #reached = false;
  #failures = 0;
  #failure: ConnectionError | undefined;

  private constructor(
    hosts: readonly HostAddress[],
    readonly target: Target,
    readonly timeoutMs: number,
  ) {
    this.#hosts = hosts.map((host) => ({ ...host, silent: false, probing: undefined, place: undefined }));
    this.#url = (hosts[0] as HostAddress).url;
    setMaxListeners(0, this.#closing.signal);
  }

  /** The hosts of a checked DSN; undefined where it has one, and whatever that is will do. */
  static of(dsn: string): Hosts | undefined {
    const parsed = parseHosts(dsn);
    return parsed && new Hosts(parsed.hosts, parsed.target, parsed.timeoutMs);
  }

  get url(): string {
    return this.#url;
  }

  /**
   * The host to connect to, looked for until one will do.
   * @throws {ConnectionError} none did in time, or none ever will
   */
  async find(withinMs: number, signal?: AbortSignal): Promise<Place> {
    const deadline = performance.now() + withinMs;
    for (;;) {
      if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
      const now = performance.now();
      if (this.#found && now < this.#found.until) return this.#found.place;
      if (now >= deadline) throw this.#failure ?? new ConnectionError(`${this.#none}: no answer yet`, true);
      const looking = orAbort(orAbort(this.#looked(), signal), this.#closing.signal);
      const place = await withDeadline('finding a host', deadline - now, looking).catch((error: unknown) => {
        if (!(error instanceof TimeoutError)) throw error;
        return undefined;
      });
      if (place) return place;
      if (this.#failure?.retryable === false) throw this.#failure;
    }
  }

  /** Something went wrong with the host that was found: all are asked again, and connections to a wrong one end. */
  doubt(): void {
    this.#found = undefined;
    this.#doubts++;
    if (!this.#closing.signal.aborted) this.#looked().catch(() => undefined);
  }

  /** Whoever waits for a host waits no longer. */
  close(): void {
    this.#closing.abort(new ClosedError('the connection to the database'));
  }

  /** One look for all who ask meanwhile. */
  #looked(): Promise<Place | undefined> {
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #look(): Promise<Place | undefined> {
    if (this.#failures > 0) await sleep(backoffMs(this.#failures, PACE), this.#closing.signal);
    const doubts = this.#doubts;
    const answers: Answers = new Map();
    const enough = deferred();
    for (const host of this.#hosts) {
      void this.#ask(host).then((answer) => {
        answers.set(host, answer);
        const waiting = this.#hosts.filter((other) => !answers.has(other));
        if (waiting.every(({ silent }) => silent) && (waiting.length === 0 || this.#weigh(answers).chosen))
          enough.resolve();
      });
    }
    await enough.promise;
    const place = this.#settle(new Map(answers));
    if (place && doubts === this.#doubts) this.#found = { place, until: performance.now() + FRESH_MS };
    return place;
  }

  /** A silent host may still be thinking about what it was asked last time. */
  #ask(host: Host): Promise<HostState | SluiceError> {
    host.probing ??= probe(host.url, this.timeoutMs)
      .catch((error: unknown) =>
        error instanceof SluiceError ? error : new ConnectionError(String(error), false),
      )
      .then((answer) => {
        host.silent = answer instanceof TimeoutError;
        host.probing = undefined;
        return answer;
      });
    return host.probing;
  }

  /** Which host the answers speak for, and what they say against the others. Changes nothing. */
  #weigh(answers: Answers) {
    const states = this.#hosts.flatMap((host) => {
      const state = answers.get(host);
      return !state || state instanceof Error ? [] : [{ host, state, refusal: REFUSALS[this.target](state) }];
    });
    const systems = new Set(states.flatMap(({ state }) => state.system ?? []));
    const system = this.#system ?? (systems.size === 1 ? [...systems][0] : undefined);
    const conflict = system === undefined && systems.size > 1;
    const ours = states.filter(({ state }) => conflict || state.system === null || state.system === system);
    const timeline = Math.max(
      this.#timeline,
      (system !== undefined && seenTimelines.get(system)) || 0,
      ...ours.map(({ state }) => state.timeline ?? 0),
    );
    for (const found of states) {
      if (!ours.includes(found)) found.refusal = `belongs to another database cluster than the one in use`;
      else if (conflict) found.refusal = `is of database cluster ${found.state.system}`;
      else if (this.#writes && (found.state.timeline ?? timeline) < timeline)
        found.refusal ??= `is an old primary that came back: its timeline ${found.state.timeline} is older than ${timeline}`;
    }
    const fit = states.filter(({ refusal }) => refusal === undefined);
    const chosen =
      (this.target === 'prefer-standby' && fit.find(({ state }) => state.inRecovery)) ||
      (fit.find(({ host }) => host.place) ?? fit[0]);
    return { states, system, timeline, conflict, chosen };
  }

  /** Goes by the answers: remembers what is to be remembered, and leaves the hosts that are not to be used. */
  #settle(answers: Answers): Place | undefined {
    const { states, system, timeline, conflict, chosen } = this.#weigh(answers);
    if (!conflict) this.#timeline = timeline;
    if (system !== undefined) seenTimelines.set(system, timeline);
    for (const { host, refusal } of states) {
      if (refusal !== undefined) leave(host, `${host.name} ${refusal}`);
    }
    if (!chosen) {
      this.#failures++;
      this.#failure = this.#reasonsOf(answers, states, conflict);
      return undefined;
    }
    this.#failures = 0;
    this.#failure = undefined;
    this.#reached = true;
    this.#system ??= chosen.state.system ?? undefined;
    if (this.#writes) {
      for (const host of this.#hosts) {
        if ((host.place?.timeline ?? timeline) < timeline) leave(host, `another host was promoted since`);
      }
    }
    chosen.host.place ??= placeAt(chosen.host, chosen.state.timeline);
    return chosen.host.place;
  }

  #reasonsOf(
    answers: Answers,
    states: readonly { host: Host; refusal: string | undefined }[],
    conflict: boolean,
  ): ConnectionError {
    const reasons = this.#hosts.map((host) => {
      const refusal = states.find((found) => found.host === host)?.refusal;
      const answer = answers.get(host);
      const failure =
        answer instanceof Error ? answer.message.replace(/^no connection to the database: /, '') : 'silence';
      return `${host.name} ${refusal ?? `failed: ${failure}`}`;
    });
    if (conflict)
      return new ConnectionError(`the hosts are not of one database: ${reasons.join('; ')}`, false);
    // What was there once may come back: its name, too.
    const comesBack = (answer: Error) => this.#reached && isUnresolved(answer);
    const hopeless = [...answers.values()].every(
      (answer) => answer instanceof SluiceError && !answer.transient && !comesBack(answer),
    );
    return new ConnectionError(`${this.#none}: ${reasons.join('; ')}`, !hopeless);
  }

  get #none(): string {
    return this.target === 'any' ? 'no host can be used' : `no host can be used as ${this.target}`;
  }

  get #writes(): boolean {
    return this.target === 'read-write' || this.target === 'primary';
  }
}

function placeAt({ name, at, url }: Host, timeline: number | null): NonNullable<Host['place']> {
  const tenure = new AbortController();
  setMaxListeners(0, tenure.signal); // one per connection
  return { name, at, url, timeline, left: tenure.signal, leave: (reason) => tenure.abort(reason) };
}

function leave(host: Host, why: string): void {
  host.place?.leave(new ConnectionError(`the connection was given up: ${why}`, true));
  host.place = undefined;
}
