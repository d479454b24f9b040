// The ways in which several devices could share the work, weighed for a workload: what `--parallel auto` chooses by.

import {
  formatRate,
  type HardwareProfile,
  LINK_BYTES_PER_SECOND,
  OperatingError,
  PEER_BYTES_PER_SECOND,
  type Plan,
  type PlanOptions,
  present,
  type Transfer,
  type Workload,
} from '../../offload/index.js';
import type { Parallel, Way } from './engine-options.js';
import type { OpenedModel } from './open-model.js';
import { shareOpened } from './share-opened.js';

/** One of them, for a model as its devices compute it. */
export interface PossibleWay {
  readonly way: Way;
  /** Undefined where devices cannot share the model so. */
  readonly opened: OpenedModel | undefined;
  /** Why not. */
  readonly refusal: string | undefined;
  /** What the planner has to be told. */
  readonly plan: Partial<PlanOptions>;
  /** Batches that are computed at once. */
  readonly batches: number;
}

/** What the planner has to be told of devices that share the work so. */
export function planOfWay(parallel: Parallel, devices: number): Partial<PlanOptions> {
  return parallel === 'pipeline' && devices > 1 ? { pipeline: true } : {};
}

/** The model as so many devices compute it. Throws UNSUPPORTED for what they cannot share. */
export function openedAs(opened: OpenedModel, parallel: Parallel, devices: number): OpenedModel {
  return parallel === 'tensor' && devices > 1 ? shareOpened(opened, devices) : opened;
}

export function possibleWays(opened: OpenedModel, devices: number): PossibleWay[] {
  const own = { opened, refusal: undefined };
  return [
    { way: 'streams', ...own, plan: {}, batches: devices },
    { way: 'tensor', ...sharedBy(opened, devices), plan: {}, batches: 1 },
    { way: 'pipeline', ...own, plan: planOfWay('pipeline', devices), batches: devices },
  ];
}

function sharedBy(opened: OpenedModel, devices: number): Pick<PossibleWay, 'opened' | 'refusal'> {
  try {
    return { opened: shareOpened(opened, devices), refusal: undefined };
  } catch (error) {
    return { opened: undefined, refusal: refusalOf(error) };
  }
}

/** What does not fit or cannot be shared; anything else is thrown on. */
export function refusalOf(error: unknown): string {
  const known = ['UNSUPPORTED', 'DOES_NOT_FIT', 'BAD_OPTION'];
  if (error instanceof OperatingError && known.includes(error.code)) return error.message;
  throw error;
}

/** Devices that sum wait for each other so long beside the copies, in each half of a block. */
const SUM_MS = 0.02;
const SUMS_PER_BLOCK = 2;

/** What devices send each other, and where that is known from. */
export interface Between {
  readonly bytesPerSecond: number;
  readonly source: string;
}

/** Where nothing was measured: GPUs with a fast link between them. */
const USUAL: Between = { bytesPerSecond: PEER_BYTES_PER_SECOND, source: 'as is usual between GPUs' };

/** What was found of the devices before the run, else what is usual. */
export function betweenOf({ peerBytesPerSecond, throughHost }: Partial<Transfer> = {}): Between {
  if (peerBytesPerSecond !== undefined) return { bytesPerSecond: peerBytesPerSecond, source: 'as measured' };
  if (!throughHost) return USUAL;
  return {
    bytesPerSecond: LINK_BYTES_PER_SECOND,
    source: 'as is usual through the host, since they reach no peer',
  };
}

/** As a machine's description has it. */
export function describedBetween({
  peerBytesPerSecond,
  linkBytesPerSecond,
}: HardwareProfile['devices']): Between {
  if (peerBytesPerSecond !== null) return { bytesPerSecond: peerBytesPerSecond, source: 'as described' };
  if (linkBytesPerSecond === null) return USUAL;
  return { bytesPerSecond: linkBytesPerSecond, source: 'through the host over links as described' };
}

/** What sums between devices add to a pass of so many tokens; neither prices nor predictions of operations have it. */
export function sumsMs(
  { shares, blocks, hiddenSize }: OpenedModel['model'],
  tokens: number,
  { bytesPerSecond }: Between,
): number {
  if (!shares) return 0;
  const bytes = tokens * hiddenSize * Float32Array.BYTES_PER_ELEMENT * (shares.length - 1);
  return blocks.length * SUMS_PER_BLOCK * (SUM_MS + (bytes / bytesPerSecond) * 1e3);
}

/** At which rate sums were counted, for logs and plans. */
export function saidOf({ bytesPerSecond, source }: Between): string {
  return `sums of devices are counted at ${formatRate(bytesPerSecond)} ${source}, and ${SUM_MS * 1e3} µs each`;
}

/** A way with what was made of it. */
export interface WeighedWay extends PossibleWay {
  readonly planned: Plan | undefined;
  /** Texts of all devices in a second, by the usual rates that plans are compared with; 0 where there is no plan. */
  readonly textsPerSecond: number;
}

export interface Weighing {
  /** The work with so many batches at once. */
  readonly workloadOf: (batches: number) => Workload;
  /** Throws DOES_NOT_FIT or BAD_OPTION. */
  readonly planOf: (way: PossibleWay, opened: OpenedModel, workload: Workload) => Plan;
  readonly between?: Between;
  /** That there are at once, at most. */
  readonly texts?: number | undefined;
}

/** In the order of `possibleWays`. */
export function weighWays(ways: readonly PossibleWay[], weighing: Weighing): WeighedWay[] {
  const { workloadOf, planOf, between = USUAL, texts = Number.POSITIVE_INFINITY } = weighing;
  return ways.map((way): WeighedWay => {
    const { opened, batches } = way;
    if (!opened) return { ...way, planned: undefined, textsPerSecond: 0 };
    const workload = workloadOf(batches);
    try {
      const planned = planOf(way, opened, workload);
      const ms = planned.jobMs + sumsOfJobMs(opened, workload, between);
      return { ...way, planned, textsPerSecond: (Math.min(texts, workload.sequences * batches) * 1e3) / ms };
    } catch (error) {
      return { ...way, refusal: refusalOf(error), planned: undefined, textsPerSecond: 0 };
    }
  });
}

function sumsOfJobMs({ model }: OpenedModel, workload: Workload, between: Between): number {
  const { promptTokens, sequences, contextTokens, newTokens } = workload;
  const steps = (newTokens ?? contextTokens - Math.round(promptTokens / sequences)) - 1;
  return sumsMs(model, promptTokens, between) + Math.max(0, steps) * sumsMs(model, sequences, between);
}

/** The one with the highest rate; the first where none is known. */
export function bestOf<W>(ways: readonly W[], rateOf: (way: W) => number): W {
  return ways.reduce((best, one) => (rateOf(one) > rateOf(best) ? one : best), present(ways[0], 'a way'));
}

export function bestWay(ways: readonly WeighedWay[]): WeighedWay {
  return bestOf(ways, ({ textsPerSecond }) => textsPerSecond);
}

/** Why it was chosen, for the log. */
export function whyWay(ways: readonly WeighedWay[], between: Between = USUAL): string {
  const best = bestWay(ways);
  const others = ways
    .filter((one) => one !== best)
    .map((one) => {
      if (one.refusal !== undefined) return `${one.way} cannot be: ${one.refusal}`;
      return `${one.way} would make ${(one.textsPerSecond / best.textsPerSecond).toFixed(2)} of its texts in the same time`;
    });
  return `--parallel auto is ${best.way}, by the rates that plans are compared with (${saidOf(between)}); ${others.join('; ')}`;
}
