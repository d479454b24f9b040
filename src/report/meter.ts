// Sums what passes did, per phase, from the trace: tokens, time, bytes, and how long compute waited for weights.

import type {
  DriveFigures,
  LaneSummary,
  LayerSummary,
  Plan,
  RowCounts,
  SlotCounts,
  Trace,
} from '../../offload/index.js';
import { PassSeries, type SeriesPiece } from './pass-series.js';
import { storedAs } from './stored-weights.js';

/** What a meter is told of a pass; generation and scoring both can. */
export interface MeteredPass {
  readonly phase: Phase;
  readonly tokens: number;
  readonly microBatches: number;
}

/** `mixed`: prompts of newcomers beside new tokens of others. */
export type Phase = 'prefill' | 'mixed' | 'decode' | 'score';

/** Sums over the passes of a phase. */
export interface PhaseFigures {
  readonly passes: number;
  readonly tokens: number;
  readonly seconds: number;
  /** On average over the devices, as is the next. */
  readonly computeSeconds: number;
  /** Compute waited for weights. */
  readonly stallSeconds: number;
  /** Stored weights that compute read on all devices: all layers, once per micro-batch. */
  readonly weightBytes: number;
  /** Arithmetic of the products in decoder blocks. */
  readonly blockFlops: number;
}

interface Marks {
  readonly nowMs: number;
  readonly computeMs: number;
  readonly stallMs: number;
  /** Read from the drive, and sent to devices. */
  readonly driveBytes: number;
  readonly linkBytes: number;
}

const NOTHING: PhaseFigures = {
  passes: 0,
  tokens: 0,
  seconds: 0,
  computeSeconds: 0,
  stallSeconds: 0,
  weightBytes: 0,
  blockFlops: 0,
};

/** The drives that weights are striped over. */
export interface StripedOver {
  readonly folders: readonly string[];
  /** What they have done so far, in the same order. */
  readonly figures: () => readonly DriveFigures[];
}

/** What one of them did in the passes that count. */
export interface DriveShareFigures extends DriveFigures {
  readonly folder: string;
}

const NO_DRIVES: StripedOver = { folders: [], figures: () => [] };

/** Told of every pass; sums of a phase since the last reset. */
export class Meter {
  readonly #trace: Trace;
  readonly #plan: Plan;
  readonly #layerBytes: number;
  /** The format that most of the weights have. */
  readonly storedAs: string;
  readonly #phases = new Map<Phase, PhaseFigures>();
  /** How often chosen experts lay in slots since the engine began; undefined where there are none, and until the end. */
  experts: SlotCounts | undefined;
  /** What was left to the host since the engine began; undefined where layers always come whole, and until the end. */
  rows: RowCounts | undefined;
  #series = new PassSeries();
  readonly #striped: StripedOver;
  #drivesBefore: readonly DriveFigures[];
  #drivesNow: readonly DriveFigures[];
  #last: Marks;

  constructor(trace: Trace, plan: Plan, striped: StripedOver = NO_DRIVES) {
    this.#striped = striped;
    this.#drivesBefore = striped.figures();
    this.#drivesNow = this.#drivesBefore;
    this.#trace = trace;
    this.#plan = plan;
    this.#layerBytes = weightBytes(plan);
    this.storedAs = storedAs(plan.layers.map(({ layout }) => layout.layer));
    this.#last = this.#marks();
  }

  /** Experts lie in slots of DRAM as well, or on the drive. */
  get behind(): boolean {
    return this.#plan.slots?.behind !== undefined;
  }

  /** What an expert takes; 0 without slots. */
  get slotBytes(): number {
    return this.#plan.slots?.bytes ?? 0;
  }

  /** Begins to count anew: after warm-up cycles, and before a cycle. */
  reset(): void {
    this.#trace.resetSums();
    this.#phases.clear();
    this.#series = new PassSeries();
    this.#drivesBefore = this.#striped.figures();
    this.#drivesNow = this.#drivesBefore;
    this.resume();
  }

  /** Time since the last pass was spent on something else. */
  resume(): void {
    this.#last = this.#marks();
  }

  pass({ phase, tokens, microBatches }: MeteredPass): void {
    const marks = this.#marks();
    const before = this.#phases.get(phase) ?? NOTHING;
    const piece = pieceBetween(this.#last, marks, tokens);
    this.#series.add(piece);
    this.#phases.set(phase, {
      passes: before.passes + 1,
      tokens: before.tokens + tokens,
      seconds: before.seconds + piece.seconds,
      computeSeconds: before.computeSeconds + piece.computeSeconds,
      stallSeconds: before.stallSeconds + piece.stallSeconds,
      weightBytes: before.weightBytes + this.#layerBytes * microBatches,
      blockFlops: before.blockFlops + this.#plan.blockFlopsPerToken * tokens,
    });
    this.#last = marks;
    this.#drivesNow = this.#striped.figures();
  }

  /** By drive, up to the end of the last pass; empty where weights are not striped. */
  get drives(): DriveShareFigures[] {
    return this.#striped.folders.map((folder, i) => {
      const [before, now] = [this.#drivesBefore[i], this.#drivesNow[i]];
      return {
        folder,
        bytes: (now?.bytes ?? 0) - (before?.bytes ?? 0),
        busyMs: (now?.busyMs ?? 0) - (before?.busyMs ?? 0),
      };
    });
  }

  phase(phase: Phase): PhaseFigures | undefined {
    return this.#phases.get(phase);
  }

  get passes(): number {
    return [...this.#phases.values()].reduce((sum, { passes }) => sum + passes, 0);
  }

  lanes(): LaneSummary[] {
    return this.#trace.summaries();
  }

  /** What became of each layer in each lane since the last reset. */
  layers(): LayerSummary[] {
    return this.#trace.layerSummaries();
  }

  /** How long compute waited for that layer: on average over the devices. */
  stallSecondsOf(layer: string): number {
    const devices = this.lanes().filter(({ lane }) => lane === 'compute').length;
    return this.#trace.stallMsOf(layer) / Math.max(1, devices) / 1e3;
  }

  /** The passes since the last reset in their order; neighbours together where there are many. */
  get series(): readonly SeriesPiece[] {
    return this.#series.pieces;
  }

  /** Bytes that the drive delivered since the last reset. */
  get streamedBytes(): number {
    return this.lanes().reduce((sum, lane) => sum + (lane.lane === 'nvme→dram' ? lane.bytes : 0), 0);
  }

  #marks(): Marks {
    const lanes = this.lanes();
    const compute = lanes.filter(({ lane }) => lane === 'compute');
    const bytesOf = (wanted: string) =>
      lanes.reduce((sum, { lane, bytes }) => sum + (lane === wanted ? bytes : 0), 0);
    const devices = Math.max(1, compute.length);
    return {
      nowMs: performance.now(),
      computeMs: compute.reduce((sum, { busyMs }) => sum + busyMs, 0) / devices,
      stallMs: this.#trace.computeStallMs / devices,
      driveBytes: bytesOf('nvme→dram'),
      linkBytes: bytesOf('dram→gpu'),
    };
  }
}

function pieceBetween(before: Marks, after: Marks, tokens: number): SeriesPiece {
  return {
    passes: 1,
    tokens,
    seconds: (after.nowMs - before.nowMs) / 1e3,
    computeSeconds: (after.computeMs - before.computeMs) / 1e3,
    stallSeconds: (after.stallMs - before.stallMs) / 1e3,
    driveBytes: after.driveBytes - before.driveBytes,
    linkBytes: after.linkBytes - before.linkBytes,
  };
}

/** Weights of all layers as they are stored, without what their reads bring along. */
function weightBytes(plan: Plan): number {
  let bytes = 0;
  for (const { layout } of plan.layers) {
    for (const { extent } of layout.layer.tensors) bytes += extent.sizeBytes;
  }
  return bytes;
}
