// Which rows of the layers in DRAM travel, and which the host multiplies where they rest: corrected by what both took.

import { present } from '../errors.js';
import { CUTS, type CutLayer } from '../model/cut-layer.js';
import { bestShare, cutOf, type RowBytes, type RowRates, rowBytes } from '../plan/host-rows.js';
import type { Plan } from '../plan/plan.js';
import type { DeviceEvent, HostMemory } from '../port/backend.js';
import { formatRate } from '../units.js';

/** How far a new measurement moves what is known. */
const NEW_WEIGHT = 0.5;
/** A change has questions defined and graphs captured anew, so it has to be worth something. */
const WORTH = 0.97;
/** Passes from one change to the next. */
const SETTLED_PASSES = 3;
/** After so many passes of whole layers one layer is cut: what kept the host busy may be over. Twice as many after every trial. */
const FIRST_TRIAL_PASSES = 64;
const MOST_TRIAL_PASSES = 4096;
const TRIED_SHARE = CUTS - 4;

/** A layer that came in part, and where the rest of it is. */
export interface RowsApart {
  readonly cut: CutLayer;
  readonly home: HostMemory;
  /** Around its copies. */
  readonly fetched: Span;
}

export interface Span {
  readonly started: DeviceEvent;
  readonly ended: DeviceEvent;
}

/** What rows cost in all passes that left some to the host. */
export interface RowCounts {
  readonly passes: number;
  readonly travelledBytes: number;
  readonly stayedBytes: number;
  /** Rows that travel now, of all. */
  readonly share: number;
}

interface Measured {
  readonly apart: RowsApart;
  readonly computed: Span;
}

/** What the layers of a pass took that came in part. */
interface Sums {
  readonly travelling: number;
  readonly staying: number;
  readonly linkMs: number;
  readonly hostMs: number;
}

export class RowShare {
  readonly #plan: Plan;
  readonly #tell: (what: string) => void;
  #share: number;
  #measured: Measured[] = [];
  #bytesPerSecond: RowRates | undefined;
  /** Passes until the share may change. */
  #settling = 1;
  #untilTrial = FIRST_TRIAL_PASSES;
  /** Layers come whole, but for one that shows what the host does with it. */
  #isTrial = false;
  #isFew = false;
  #hasTold = false;
  #counts = { passes: 0, travelledBytes: 0, stayedBytes: 0 };
  readonly #known = new Map<number, RowBytes>();

  /** @param tell is told once, if the host is of no use */
  constructor(plan: Plan, tell: (what: string) => void) {
    this.#plan = plan;
    this.#tell = tell;
    this.#share = present(plan.rows, 'rows of the plan').share;
  }

  get counts(): RowCounts {
    return { ...this.#counts, share: this.#share / CUTS };
  }

  /** A pass begins: layers that are fetched from now on are taken for those of passes like it, since decoding follows decoding. */
  begin(isFew: boolean): void {
    this.#isFew = isFew;
    this.#measured = [];
  }

  /** How a layer is to come now; undefined for all of it. */
  cutFor(layerIndex: number): CutLayer | undefined {
    const layer = present(this.#plan.layers[layerIndex], 'layer');
    const isTried = this.#isTrial && layerIndex === this.#plan.layers.findIndex(({ cuttable }) => cuttable);
    const share = isTried ? TRIED_SHARE : this.#share;
    if (!this.#isFew || !layer.cuttable || share === CUTS) return undefined;
    const cut = cutOf(layer, share);
    return cut.stayingBytes > 0 ? cut : undefined;
  }

  /** @param computed from when its bytes were there until it was done */
  note(apart: RowsApart, computed: Span): void {
    this.#measured.push({ apart, computed });
  }

  /** The pass is over on the device. */
  end(): void {
    if (!this.#isFew) return;
    this.#settling--;
    const sums = this.#sums();
    if (sums) {
      this.#counts.passes++;
      this.#counts.travelledBytes += sums.travelling;
      this.#counts.stayedBytes += sums.staying;
      this.#learn(sums);
    }
    if (!present(this.#plan.rows, 'rows').isFixed) this.#correct();
  }

  /** Undefined where the pass left nothing to the host. */
  #sums(): Sums | undefined {
    let [travelling, staying, linkMs, hostMs] = [0, 0, 0, 0];
    for (const { apart, computed } of this.#measured) {
      travelling += apart.cut.travellingBytes;
      staying += apart.cut.stayingBytes;
      linkMs += msOf(apart.fetched);
      hostMs += msOf(computed);
    }
    return hostMs > 0 ? { travelling, staying, linkMs, hostMs } : undefined;
  }

  #learn({ travelling, staying, linkMs, hostMs }: Sums): void {
    const rate = (bytes: number, ms: number, before: number | undefined) => {
      if (!(ms > 0 && bytes > 0)) return before ?? Number.POSITIVE_INFINITY;
      const now = bytes / (ms / 1e3);
      return before === undefined || !Number.isFinite(before) ? now : before + NEW_WEIGHT * (now - before);
    };
    const before = this.#bytesPerSecond;
    this.#bytesPerSecond = {
      linkBytesPerSecond: rate(travelling, linkMs, before?.linkBytesPerSecond),
      hostBytesPerSecond: rate(staying, hostMs, before?.hostBytesPerSecond),
    };
  }

  #correct(): void {
    const rates = this.#bytesPerSecond;
    if (this.#settling > 0 || (!rates && this.#share < CUTS)) return;
    if (!rates) {
      // Nothing was cut: a trial begins, or goes on until a layer that was fetched for it has come.
      this.#isTrial = true;
      return;
    }
    const { share, ms, wholeMs } = bestShare((at) => this.#bytesAt(at), rates);
    if (wholeMs * WORTH < ms) {
      if (!this.#hasTold) this.#tell(ofNoUse(rates));
      this.#hasTold = true;
      this.#change(CUTS, this.#untilTrial);
      this.#untilTrial = Math.min(MOST_TRIAL_PASSES, 2 * this.#untilTrial);
      return;
    }
    const { travelling, staying } = this.#bytesAt(this.#share);
    const nowMs = 1e3 * Math.max(travelling / rates.linkBytesPerSecond, staying / rates.hostBytesPerSecond);
    if (share !== this.#share && ms < WORTH * nowMs) this.#change(share, SETTLED_PASSES);
  }

  #change(share: number, settling: number): void {
    this.#share = share;
    this.#settling = settling;
    this.#isTrial = false;
    // What was measured with other shares says little of how both get along with this one.
    this.#bytesPerSecond = undefined;
  }

  #bytesAt(share: number): RowBytes {
    const bytes = this.#known.get(share) ?? rowBytes(this.#plan, share);
    this.#known.set(share, bytes);
    return bytes;
  }
}

function ofNoUse({ linkBytesPerSecond, hostBytesPerSecond }: RowRates): string {
  return (
    `the processor multiplies rows at ${formatRate(hostBytesPerSecond)} beside a link of ${formatRate(linkBytesPerSecond)}, which saves nothing: ` +
    'layers come whole for now'
  );
}

function msOf({ started, ended }: Span): number {
  const ms = ended.timeMs - started.timeMs;
  return ms > 0 ? ms : 0;
}
