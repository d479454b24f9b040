// Sums what passes did, per phase, from the trace: tokens, time, bytes, and how long compute waited for weights.

import type { LaneSummary, Plan, RowCounts, SlotCounts, Trace } from '../../offload/index.js';
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
  #last: Marks;

  constructor(trace: Trace, plan: Plan) {
    this.#trace = trace;
    this.#plan = plan;
    this.#layerBytes = weightBytes(plan);
    this.storedAs = storedAs(plan.layers.map(({ layout }) => layout.layer));
    this.#last = this.#marks();
  }

  /** What an expert takes; 0 without slots. */
  get slotBytes(): number {
    return this.#plan.slots?.bytes ?? 0;
  }

  /** Begins to count anew: after warm-up cycles, and before a cycle. */
  reset(): void {
    this.#trace.resetSums();
    this.#phases.clear();
    this.resume();
  }

  /** Time since the last pass was spent on something else. */
  resume(): void {
    this.#last = this.#marks();
  }

  pass({ phase, tokens, microBatches }: MeteredPass): void {
    const marks = this.#marks();
    const before = this.#phases.get(phase) ?? NOTHING;
    this.#phases.set(phase, {
      passes: before.passes + 1,
      tokens: before.tokens + tokens,
      seconds: before.seconds + (marks.nowMs - this.#last.nowMs) / 1e3,
      computeSeconds: before.computeSeconds + (marks.computeMs - this.#last.computeMs) / 1e3,
      stallSeconds: before.stallSeconds + (marks.stallMs - this.#last.stallMs) / 1e3,
      weightBytes: before.weightBytes + this.#layerBytes * microBatches,
      blockFlops: before.blockFlops + this.#plan.blockFlopsPerToken * tokens,
    });
    this.#last = marks;
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

  /** Bytes that the drive delivered since the last reset. */
  get streamedBytes(): number {
    return this.lanes().reduce((sum, lane) => sum + (lane.lane === 'nvme→dram' ? lane.bytes : 0), 0);
  }

  #marks(): Marks {
    const compute = this.lanes().filter(({ lane }) => lane === 'compute');
    const devices = Math.max(1, compute.length);
    return {
      nowMs: performance.now(),
      computeMs: compute.reduce((sum, { busyMs }) => sum + busyMs, 0) / devices,
      stallMs: this.#trace.computeStallMs / devices,
    };
  }
}

/** Weights of all layers as they are stored, without what their reads bring along. */
function weightBytes(plan: Plan): number {
  let bytes = 0;
  for (const { layout } of plan.layers) {
    for (const { extent } of layout.layer.tensors) bytes += extent.sizeBytes;
  }
  return bytes;
}
