// Counters of the engine as frames for whoever watches: made once for all of them, and not at all while nobody does.

import type { LaneSummary, Span, Trace } from '../../offload/index.js';
import type { LiveFrame, LiveHop } from './live-frame.js';

/** What the engine is asked when a frame is made. */
export interface LiveSources {
  readonly trace: Pick<Trace, 'summaries' | 'computeStallMs' | 'observe'>;
  /** Places of layers by name. */
  readonly places: ReadonlyMap<string, number>;
  /** Measured in this run; by hop. */
  readonly limits: ReadonlyMap<string, number>;
  readonly rest: () => Omit<LiveFrame, 'seconds' | 'computeShare' | 'stallShare' | 'hops' | 'moved'>;
}

export type Watcher = (frame: LiveFrame) => void;

export const FRAME_MS = 250;
/** A window of less than that says little of a rate. */
const LEAST_RATED_MS = 100;

const MOVES: Readonly<Record<string, keyof LiveFrame['moved']>> = {
  'nvme→dram': 'drive',
  'dram→gpu': 'link',
  gather: 'link',
  compute: 'compute',
};

interface Marks {
  readonly atMs: number;
  readonly lanes: readonly LaneSummary[];
  readonly stallMs: number;
}

export class LiveFeed {
  readonly #sources: LiveSources;
  readonly #watchers = new Set<Watcher>();
  readonly #startMs = performance.now();
  /** By hop and owner: the most that a frame has seen. */
  readonly #best = new Map<string, number>();
  #moved = nothingMoved();
  #last: Marks;
  #timer: NodeJS.Timeout | undefined;

  constructor(sources: LiveSources) {
    this.#sources = sources;
    this.#last = this.#marks();
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  /** @returns ends the watching */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    if (!this.#timer) this.#begin();
    return () => {
      this.#watchers.delete(watcher);
      if (this.#watchers.size === 0) this.#end();
    };
  }

  #begin(): void {
    this.#last = this.#marks();
    this.#moved = nothingMoved();
    this.#sources.trace.observe((span) => this.#enter(span));
    this.#timer = setInterval(() => this.#tell(), FRAME_MS);
    this.#timer.unref();
  }

  #end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#sources.trace.observe(undefined);
  }

  #enter({ lane, name }: Span): void {
    const [move, place] = [MOVES[lane], this.#sources.places.get(name)];
    if (move && place !== undefined) this.#moved[move].add(place);
  }

  #tell(): void {
    const frame = this.#frame();
    for (const watcher of this.#watchers) watcher(frame);
  }

  #frame(): LiveFrame {
    const [before, now] = [this.#last, this.#marks()];
    const ms = now.atMs - before.atMs;
    this.#last = now;
    const devices = Math.max(1, now.lanes.filter(({ lane }) => lane === 'compute').length);
    const busyMs = (lanes: readonly LaneSummary[]) =>
      lanes.reduce((sum, one) => sum + (one.lane === 'compute' ? one.busyMs : 0), 0);
    const moved = this.#moved;
    this.#moved = nothingMoved();
    return {
      ...this.#sources.rest(),
      seconds: (now.atMs - this.#startMs) / 1e3,
      computeShare: shareOf((busyMs(now.lanes) - busyMs(before.lanes)) / devices, ms),
      stallShare: shareOf((now.stallMs - before.stallMs) / devices, ms),
      hops: now.lanes
        .filter(({ lane }) => lane !== 'compute')
        .map((lane) => this.#hop(lane, before.lanes, ms)),
      moved: { drive: [...moved.drive], link: [...moved.link], compute: [...moved.compute] },
    };
  }

  #hop(now: LaneSummary, lanes: readonly LaneSummary[], ms: number): LiveHop {
    const { lane: hop, owner } = now;
    const before = lanes.find((one) => one.lane === hop && one.owner === owner);
    const bytes = now.bytes - (before?.bytes ?? 0);
    const bytesPerSecond = ms > 0 ? Math.max(0, bytes) / (ms / 1e3) : 0;
    const key = `${hop} ${owner}`;
    const best = Math.max(this.#best.get(key) ?? 0, ms >= LEAST_RATED_MS ? bytesPerSecond : 0);
    this.#best.set(key, best);
    const limit = this.#sources.limits.get(hop);
    return {
      hop,
      owner,
      bytesPerSecond,
      busyShare: shareOf(now.busyMs - (before?.busyMs ?? 0), ms),
      limitBytesPerSecond: Math.max(limit ?? 0, best),
      isMeasured: limit !== undefined && limit >= best,
    };
  }

  #marks(): Marks {
    const { trace } = this.#sources;
    return { atMs: performance.now(), lanes: trace.summaries(), stallMs: trace.computeStallMs };
  }
}

function nothingMoved(): Record<keyof LiveFrame['moved'], Set<number>> {
  return { drive: new Set(), link: new Set(), compute: new Set() };
}

/** Times are entered when they are over, so that a long one may be of several frames. */
function shareOf(part: number, whole: number): number {
  return whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0;
}
