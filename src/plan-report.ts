// A plan with what follows from it, before anything is read: predicted steps, what bounds them, and the largest batch.

import {
  type HardwareProfile,
  type MicroBatchShape,
  type ModelSpec,
  type Offload,
  OperatingError,
  type Plan,
  type PlanOptions,
  type PredictedPass,
  predictPass,
  present,
} from '../offload/index.js';
import { cutPasses, cutSequence, packPass } from './batch.js';
import { DRAM_SHARE, planFor } from './engine.js';

export interface PlanRequest {
  readonly model: ModelSpec;
  readonly offload: Offload;
  /** Undefined: most of the machine's. */
  readonly dramBudgetBytes: number | undefined;
  readonly plan: Partial<PlanOptions>;
  readonly machine: HardwareProfile;
  readonly batchSize: number;
  readonly promptTokens: number;
  readonly newTokens: number;
}

export interface PredictedPhases {
  /** All passes that the prompts take, after the first run has loaded what rests in DRAM or on devices. */
  readonly prefill: PredictedPass | undefined;
  /** One pass with half of the new tokens already there. */
  readonly decode: PredictedPass | undefined;
}

export interface PlanReport {
  readonly request: PlanRequest;
  readonly plan: Plan;
  readonly predicted: PredictedPhases;
  /** Reading what then rests in DRAM or on devices; undefined where the drive's rate is not known. */
  readonly loadMs: number | undefined;
  readonly largestBatch: {
    readonly batchSize: number;
    readonly plan: Plan;
    readonly decode: PredictedPass | undefined;
  };
}

/** The search ends here: larger batches are no practical question. */
export const LARGEST_BATCH = 16384;

/** Throws DOES_NOT_FIT with the largest batch that would, or PROMPT_TOO_LONG. */
export function makePlanReport(request: PlanRequest): PlanReport {
  const { model, machine, batchSize } = request;
  const largest = largestBatch(request);
  let plan: Plan;
  try {
    plan = planBatch(request, batchSize);
  } catch (error) {
    if (largest === undefined || !isRefusal(error)) throw error;
    throw new OperatingError(
      'DOES_NOT_FIT',
      `${error.message}; the largest batch that fits is ${largest.sequences}`,
    );
  }
  const resident = plan.layers.reduce(
    (sum, { tier, layout }) => sum + (tier === 'nvme' ? 0 : layout.host.sizeBytes),
    0,
  );
  const roomy = present(largest, 'a batch that fits');
  return {
    request,
    plan,
    predicted: { prefill: predictPrefill(request, plan), decode: predictDecode(request, plan, batchSize) },
    loadMs: machine.drive ? (resident / machine.drive.bytesPerSecond) * 1e3 : undefined,
    largestBatch: {
      batchSize: roomy.sequences,
      plan: roomy,
      decode: predictPass(model, roomy, machine, decodeShapes(request, roomy, roomy.sequences)),
    },
  };
}

/** The plan for that many sequences at once on the described machine. Throws like `planFor`. */
function planBatch(request: PlanRequest, sequences: number): Plan {
  const { model, machine, promptTokens, newTokens } = request;
  const { kind, count, memoryBytes } = machine.devices;
  const given = request.dramBudgetBytes !== undefined;
  return planFor(model, {
    offload: request.offload,
    dramBudgetBytes: request.dramBudgetBytes ?? Math.floor(machine.dramBytes * DRAM_SHARE),
    workload: {
      sequences,
      contextTokens: promptTokens + newTokens,
      promptTokens: sequences * promptTokens,
      output: 'tokens',
    },
    plan: {
      ...(given ? {} : { dramBudgetName: `what may be used of the memory of ${machine.name}` }),
      deviceCount: count,
      computesInPlace: kind === 'cpu',
      cuda: kind === 'gpu',
      ...(memoryBytes === null ? {} : { deviceBudgetBytes: memoryBytes }),
      ...request.plan,
    },
  });
}

/** Doubles until it no longer fits, then halves the gap. */
function largestBatch(request: PlanRequest): Plan | undefined {
  let fitting = tryPlan(request, 1);
  let [fits, tooLarge] = [1, 2];
  if (!fitting) return undefined;
  while (tooLarge <= LARGEST_BATCH) {
    const plan = tryPlan(request, tooLarge);
    if (!plan) break;
    fitting = plan;
    [fits, tooLarge] = [tooLarge, 2 * tooLarge];
  }
  if (tooLarge > LARGEST_BATCH) return fitting;
  while (tooLarge - fits > 1) {
    const middle = Math.floor((fits + tooLarge) / 2);
    const plan = tryPlan(request, middle);
    if (plan) [fitting, fits] = [plan, middle];
    else tooLarge = middle;
  }
  return fitting;
}

function tryPlan(request: PlanRequest, sequences: number): Plan | undefined {
  try {
    return planBatch(request, sequences);
  } catch (error) {
    if (isRefusal(error)) return undefined;
    throw error;
  }
}

function isRefusal(error: unknown): error is OperatingError {
  return error instanceof OperatingError && error.code === 'DOES_NOT_FIT';
}

function predictDecode(request: PlanRequest, plan: Plan, sequences: number): PredictedPass | undefined {
  return predictPass(request.model, plan, request.machine, decodeShapes(request, plan, sequences));
}

function decodeShapes(request: PlanRequest, plan: Plan, sequences: number): MicroBatchShape[] {
  const start = request.promptTokens + Math.floor(request.newTokens / 2);
  return passesOf(plan, sequences, 1, start).flat();
}

/** Sums the passes; a pass like one before is not predicted again. */
function predictPrefill(request: PlanRequest, plan: Plan): PredictedPass | undefined {
  const { model, machine, batchSize, promptTokens } = request;
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

/** The micro-batches of each pass, as generation would pack them. */
function passesOf(plan: Plan, sequences: number, tokens: number, start: number): MicroBatchShape[][] {
  const work = Array.from({ length: sequences }, (_, sequence) =>
    cutSequence(sequence, new Int32Array(tokens), start, [], plan, (at) => at === start + tokens - 1),
  ).flat();
  return cutPasses(work, plan).map((pass) =>
    packPass(pass, plan).microBatches.map(({ slices, outputs }) => ({
      slices: slices.map((slice) => ({ tokens: slice.tokens.length, startPosition: slice.startPosition })),
      outputs: outputs.length,
    })),
  );
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
