// A plan with what follows from it, before anything is read: predicted steps, what bounds them, and the largest batch.

import {
  defaultTransfer,
  formatRate,
  type GatherWish,
  type HardwareProfile,
  type MicroBatchShape,
  type ModelSpec,
  makeTransfer,
  type Offload,
  OperatingError,
  type Plan,
  type PlanOptions,
  type PredictedPass,
  predictPass,
  shardsOf,
  type Transfer,
  wholeOf,
} from '../../offload/index.js';
import {
  findAutoBatch,
  findLargestBatch,
  isRefusal,
  type LargestBatch,
  planOnce,
} from '../engine/largest-batch.js';
import { type Feed, fillPass, packPass } from '../engine/packing.js';
import { DRAM_SHARE, planFor } from '../engine/plan-for.js';

export interface PlanRequest {
  readonly model: ModelSpec;
  readonly offload: Offload;
  /** Undefined: most of the machine's. */
  readonly dramBudgetBytes: number | undefined;
  readonly plan: Partial<PlanOptions>;
  readonly machine: HardwareProfile;
  /** `auto`: the one that makes most tokens a second. */
  readonly batchSize: number | 'auto';
  /** How layers reach several devices; `auto`: as the machine's rates make it faster. */
  readonly gather?: GatherWish | undefined;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Longest sequence that keys and values are to have room for; default what prompt and new tokens need. */
  readonly maxContext?: number | undefined;
  /** The same model with weights that are stored otherwise, to be compared with it. */
  readonly alternatives?: readonly Alternative[];
}

export interface Alternative {
  readonly name: string;
  readonly model: ModelSpec;
  readonly weightBytes: number;
}

/** What another way to store the weights would change, for the same batch. */
export interface ComparedPlan {
  readonly name: string;
  readonly weightBytes: number;
  /** Undefined where it does not fit. */
  readonly plan: Plan | undefined;
  readonly decode: PredictedPass | undefined;
}

export interface PredictedPhases {
  /** All passes that the prompts take, after the first run has loaded what rests in DRAM or on devices. */
  readonly prefill: PredictedPass | undefined;
  /** One pass with half of the new tokens already there. */
  readonly decode: PredictedPass | undefined;
}

export interface PlanReport {
  readonly request: PlanRequest;
  readonly batchSize: number;
  /** With `auto`: why one more does not fit. */
  readonly autoBatchRefusal: string | undefined;
  readonly plan: Plan;
  readonly predicted: PredictedPhases;
  /** Reading what then rests in DRAM or on devices; undefined where the drive's rate is not known. */
  readonly loadMs: number | undefined;
  readonly largestBatch: {
    readonly batchSize: number;
    readonly plan: Plan;
    /** Why one more does not fit. */
    readonly refusal: string | undefined;
    readonly decode: PredictedPass | undefined;
  };
  readonly compared: readonly ComparedPlan[];
}

/** Throws DOES_NOT_FIT, with the largest batch that would where there is one, or PROMPT_TOO_LONG. */
export function makePlanReport(request: PlanRequest): PlanReport {
  const { machine, promptTokens, newTokens, maxContext } = request;
  if (maxContext !== undefined && promptTokens + newTokens > maxContext) {
    throw new OperatingError(
      'PROMPT_TOO_LONG',
      `a prompt of ${promptTokens} tokens with ${newTokens} new ones is longer than --max_context, ${maxContext}: raise it`,
    );
  }
  const plans = planOnce((sequences) => planBatch(request, sequences));
  const largest = findLargestBatch(plans);
  const chosen = chooseBatch(request.batchSize, plans, largest);
  const { sequences: batchSize, plan } = chosen;
  const resident = plan.layers.reduce(
    (sum, { tier, layout }) => sum + (tier === 'nvme' ? 0 : layout.host.sizeBytes),
    0,
  );
  return {
    request,
    batchSize,
    autoBatchRefusal: chosen.refusal,
    plan,
    predicted: {
      prefill: predictPrefill(request, plan, batchSize),
      decode: predictDecode(request, plan, batchSize),
    },
    loadMs: machine.drive ? (resident / machine.drive.bytesPerSecond) * 1e3 : undefined,
    largestBatch: {
      batchSize: largest.sequences,
      plan: largest.plan,
      refusal: largest.refusal,
      decode: predictDecode(request, largest.plan, largest.sequences),
    },
    compared: (request.alternatives ?? []).map((alternative) => compare(request, alternative, batchSize)),
  };
}

function compare(
  request: PlanRequest,
  { name, model, weightBytes }: Alternative,
  batchSize: number,
): ComparedPlan {
  const other = { ...request, model };
  try {
    const plan = planBatch(other, batchSize);
    return { name, weightBytes, plan, decode: predictDecode(other, plan, batchSize) };
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return { name, weightBytes, plan: undefined, decode: undefined };
  }
}

/** The batch that was asked for, or that `auto` takes; only the latter says why it is no larger. */
function chooseBatch(
  batchSize: number | 'auto',
  plans: (sequences: number) => Plan,
  largest: LargestBatch,
): LargestBatch {
  if (batchSize === 'auto') return findAutoBatch(plans);
  try {
    return { sequences: batchSize, plan: plans(batchSize), refusal: undefined };
  } catch (error) {
    if (!isRefusal(error)) throw error;
    throw new OperatingError(
      'DOES_NOT_FIT',
      `${error.message}; the largest batch that fits is ${largest.sequences}`,
    );
  }
}

/** The plan for that many sequences at once on the described machine. Throws like `planFor`. */
export function planBatch(request: PlanRequest, sequences: number): Plan {
  const { model, machine, promptTokens, newTokens } = request;
  const { kind, count, memoryBytes } = machine.devices;
  const given = request.dramBudgetBytes !== undefined;
  return planFor(model, {
    offload: request.offload,
    dramBudgetBytes: request.dramBudgetBytes ?? Math.floor(machine.dramBytes * DRAM_SHARE),
    workload: {
      sequences,
      contextTokens: Math.max(promptTokens + newTokens, request.maxContext ?? 0),
      promptTokens: sequences * promptTokens,
      newTokens,
      output: 'tokens',
    },
    plan: {
      ...(given ? {} : { dramBudgetName: `what may be used of the memory of ${machine.name}` }),
      deviceCount: count,
      computesInPlace: kind === 'cpu',
      cuda: kind === 'gpu',
      ...(memoryBytes === null ? {} : { deviceBudgetBytes: memoryBytes }),
      transfer: describedTransfer(machine.devices, request.gather),
      ...request.plan,
    },
  });
}

/** With gathers hidden behind fetches, a layer takes the longer of its shard's time on the link and the others' between peers. */
export function describedTransfer(
  { kind, count, linkBytesPerSecond, peerBytesPerSecond }: HardwareProfile['devices'],
  wish: GatherWish = 'auto',
): Transfer {
  if (kind === 'cpu' || count === 1 || linkBytesPerSecond === null) {
    return defaultTransfer(count, kind === 'cpu');
  }
  const shards = shardsOf(count);
  if (wish === 'none') return makeTransfer('none', `${wholeOf(count)}, as --gather none asks`);
  if (wish !== 'auto') {
    const by = wish === 'peer' ? 'peer copies' : 'NCCL';
    return makeTransfer(wish, `${shards} by ${by}, as --gather ${wish} asks`);
  }
  const links = `its link carries ${formatRate(linkBytesPerSecond)}`;
  if (peerBytesPerSecond === null) {
    return makeTransfer(
      'none',
      `${wholeOf(count)}: ${links}, and the description names no fast link between devices`,
    );
  }
  const peers = `peers reach each other at ${formatRate(peerBytesPerSecond)}`;
  return (count - 1) / peerBytesPerSecond < count / linkBytesPerSecond
    ? makeTransfer('peer', `${shards} by peer copies: ${links}, ${peers}`)
    : makeTransfer('none', `${wholeOf(count)}: ${links}, and ${peers} only`);
}

export function predictDecode(
  request: PlanRequest,
  plan: Plan,
  sequences: number,
): PredictedPass | undefined {
  return predictPass(request.model, plan, request.machine, decodeShapes(request, plan, sequences));
}

function decodeShapes(request: PlanRequest, plan: Plan, sequences: number): MicroBatchShape[] {
  const start = request.promptTokens + Math.floor(request.newTokens / 2);
  return passesOf(plan, sequences, 1, start).flat();
}

/** Sums the passes; a pass like one before is not predicted again. */
export function predictPrefill(
  request: PlanRequest,
  plan: Plan,
  batchSize: number,
): PredictedPass | undefined {
  const { model, machine, promptTokens } = request;
  const known = new Map<string, PredictedPass | undefined>();
  let total: PredictedPass | undefined;
  for (const pass of passesOf(plan, batchSize, promptTokens, 0)) {
    const key = JSON.stringify(pass);
    const predicted = known.has(key) ? known.get(key) : predictPass(model, plan, machine, pass);
    known.set(key, predicted);
    if (!predicted) return undefined;
    total = total ? addPasses(total, predicted) : predicted;
  }
  return total;
}

/** The micro-batches of each pass, as generation would pack them, but that nobody goes on before all are taken in. */
function passesOf(plan: Plan, sequences: number, tokens: number, start: number): MicroBatchShape[][] {
  const passes: MicroBatchShape[][] = [];
  let feeds: Feed<number>[] = Array.from({ length: sequences }, (_, sequence) => ({
    sequence,
    tokens: new Int32Array(tokens),
    start,
    pages: [],
  }));
  while (feeds.length > 0) {
    const work = fillPass(feeds, plan);
    const { microBatches } = packPass(work, plan);
    passes.push(
      microBatches.map(({ slices, outputs }) => ({
        slices: slices.map((slice) => ({
          tokens: slice.tokens.length,
          startPosition: slice.startPosition,
        })),
        outputs: outputs.length,
      })),
    );
    const taken = new Map<number, number>();
    for (const { sequence, slice } of work) {
      taken.set(sequence, (taken.get(sequence) ?? 0) + slice.tokens.length);
    }
    feeds = feeds.flatMap((feed) => {
      const count = taken.get(feed.sequence) ?? 0;
      if (count === feed.tokens.length) return [];
      return [{ ...feed, tokens: feed.tokens.subarray(count), start: feed.start + count }];
    });
  }
  return passes;
}

function addPasses(a: PredictedPass, b: PredictedPass): PredictedPass {
  return {
    totalMs: a.totalMs + b.totalMs,
    computeMs: a.computeMs + b.computeMs,
    driveMs: a.driveMs + b.driveMs,
    linkMs: a.linkMs + b.linkMs,
    stallMs: a.stallMs + b.stallMs,
    bound: a.totalMs >= b.totalMs ? a.bound : b.bound,
    tokens: a.tokens + b.tokens,
    driveBytes: a.driveBytes + b.driveBytes,
    weightBytes: a.weightBytes + b.weightBytes,
    flops: a.flops + b.flops,
  };
}
