// What happened when: spans per hop and stream, and their sums for the report.

import type { DeviceEvent, ReadSpan } from './port/backend.js';

export type Lane = 'nvme→dram' | 'dram→gpu' | 'gather' | 'kv dram→gpu' | 'kv gpu→dram' | 'compute' | 'rows';

export interface Span {
  readonly lane: Lane;
  /** Device or drive the lane belongs to. */
  readonly owner: string;
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly bytes: number;
}

export interface LaneSummary {
  readonly lane: Lane;
  readonly owner: string;
  readonly bytes: number;
  readonly spans: number;
  /** Time in which at least one span was running. */
  readonly busyMs: number;
}

/** What became of one layer, or of a table of rows, in a lane; of all owners together. */
export interface LayerSummary {
  readonly lane: Lane;
  readonly name: string;
  readonly bytes: number;
  readonly spans: number;
  /** Lengths of the spans: they may overlap others of the lane. */
  readonly spanMs: number;
}

interface LayerTotal {
  bytes: number;
  spans: number;
  spanMs: number;
}

interface LaneTotal extends Omit<LayerTotal, 'spanMs'> {
  busyMs: number;
  coveredUntilMs: number;
  readonly layers: Map<string, LayerTotal>;
}

/** Some 100 MB, and as a file less than half of what a string may hold; hours of most runs. */
const MOST_SPANS = 1_000_000;

/** Sums are always kept; the spans themselves only when a trace file was asked for. */
export class Trace {
  readonly #keepSpans: boolean;
  readonly #spans: Span[] = [];
  readonly #totals = new Map<string, LaneTotal>();
  readonly #laneOf = new Map<string, { lane: Lane; owner: string }>();
  #computeStallMs = 0;
  readonly #layerStallMs = new Map<string, number>();
  #droppedSpans = 0;
  #observer: ((span: Span) => void) | undefined;

  constructor(keepSpans: boolean) {
    this.#keepSpans = keepSpans;
  }

  /** Spans of one lane and owner arrive ordered by end. */
  add(span: Span): void {
    if (this.#keepSpans) this.#keep(span);
    this.#observer?.(span);
    const key = `${span.lane} ${span.owner}`;
    let total = this.#totals.get(key);
    if (!total) {
      total = { bytes: 0, spans: 0, busyMs: 0, coveredUntilMs: Number.NEGATIVE_INFINITY, layers: new Map() };
      this.#totals.set(key, total);
      this.#laneOf.set(key, { lane: span.lane, owner: span.owner });
    }
    total.bytes += span.bytes;
    total.spans++;
    total.busyMs += Math.max(0, span.endMs - Math.max(span.startMs, total.coveredUntilMs));
    total.coveredUntilMs = Math.max(total.coveredUntilMs, span.endMs);
    addTo(total.layers, span);
  }

  #keep(span: Span): void {
    if (this.#spans.length < MOST_SPANS) this.#spans.push(span);
    else this.#droppedSpans++;
  }

  /** Told of each span from now on, in place of whoever was before; undefined: nobody. */
  observe(observer: ((span: Span) => void) | undefined): void {
    this.#observer = observer;
  }

  /** The span between two events of a stream, once it is over; of a device that failed there is none. */
  addWhenReached(span: Omit<Span, 'startMs' | 'endMs'>, started: DeviceEvent, ended: DeviceEvent): void {
    ended.reached().then(
      () => this.add({ ...span, startMs: started.timeMs, endMs: ended.timeMs }),
      () => undefined, // the failure is reported by the device's pass
    );
  }

  /** A layer's read into DRAM; resolves with the time when its bytes were there, and rejects as the read does. */
  async addRead(name: string, read: Promise<ReadSpan>): Promise<number> {
    const span = await read;
    this.add({ lane: 'nvme→dram', owner: 'drive', name, ...span });
    return span.endMs;
  }

  /** Compute had nothing to do because weights of that layer were still on their way. */
  addComputeStall(ms: number, layer: string): void {
    this.#computeStallMs += ms;
    this.#layerStallMs.set(layer, (this.#layerStallMs.get(layer) ?? 0) + ms);
  }

  get computeStallMs(): number {
    return this.#computeStallMs;
  }

  summaries(): LaneSummary[] {
    return [...this.#totals].map(([key, total]) => {
      const { lane, owner } = this.#laneOf.get(key) ?? { lane: 'compute', owner: '' };
      return { lane, owner, bytes: total.bytes, spans: total.spans, busyMs: total.busyMs };
    });
  }

  /** Each layer once per lane, in the order in which they came first. */
  layerSummaries(): LayerSummary[] {
    const sums = new Map<string, LayerSummary>();
    for (const [key, { layers }] of this.#totals) {
      const lane = this.#laneOf.get(key)?.lane ?? 'compute';
      for (const [name, { bytes, spans, spanMs }] of layers) {
        const before = sums.get(`${lane} ${name}`) ?? { bytes: 0, spans: 0, spanMs: 0 };
        sums.set(`${lane} ${name}`, {
          lane,
          name,
          bytes: before.bytes + bytes,
          spans: before.spans + spans,
          spanMs: before.spanMs + spanMs,
        });
      }
    }
    return [...sums.values()];
  }

  /** How long compute waited for that layer, on all devices together. */
  stallMsOf(layer: string): number {
    return this.#layerStallMs.get(layer) ?? 0;
  }

  /** As they were added; none unless they are kept. */
  get spans(): readonly Span[] {
    return this.#spans;
  }

  /** Forgets the sums (after warm-up); spans stay. */
  resetSums(): void {
    this.#totals.clear();
    this.#computeStallMs = 0;
    this.#layerStallMs.clear();
  }

  /** Spans that were left out of `spans`, because there were too many to keep. */
  get droppedSpans(): number {
    return this.#droppedSpans;
  }
}

function addTo(layers: Map<string, LayerTotal>, { name, bytes, startMs, endMs }: Span): void {
  let total = layers.get(name);
  if (!total) {
    total = { bytes: 0, spans: 0, spanMs: 0 };
    layers.set(name, total);
  }
  total.bytes += bytes;
  total.spans++;
  total.spanMs += endMs - startMs;
}
