// How several devices could share the work on a described machine: what each way is predicted to make, and why not.

import { formatBytes, type Plan, type PlanOptions, type PredictedPass } from '../../offload/index.js';
import {
  type Between,
  bestOf,
  describedBetween,
  type PossibleWay,
  refusalOf,
  saidOf,
  sumsMs,
} from '../engine/ways.js';
import { type PlanRequest, planBatch, predictDecode, predictPrefill } from './plan-report.js';
import { textTable } from './text-table.js';

export interface ComparedWay {
  readonly possible: PossibleWay;
  readonly name: string;
  /** Undefined where it cannot be, */
  readonly plan: Plan | undefined;
  /** and why not. */
  readonly refusal: string | undefined;
  readonly decode: PredictedPass | undefined;
  /** A step of all batches, sums between devices included; undefined where it is not known. */
  readonly stepMs: number | undefined;
  /** New tokens of all devices, prompts included. */
  readonly tokensPerSecond: number;
}

/** Streams with layers that rest whole and in shards, and the other ways. */
export function compareWays(
  request: PlanRequest,
  ways: readonly PossibleWay[],
  batchSize: number,
): ComparedWay[] {
  return ways.flatMap((possible) => {
    if (possible.way !== 'streams') return [compareWay(request, possible, batchSize, possible.way)];
    const inShards = { ...possible.plan, restsInShards: true };
    const whole = { ...possible.plan, restsInShards: false };
    return [
      compareWay(request, { ...possible, plan: whole }, batchSize, 'streams'),
      compareWay(request, { ...possible, plan: inShards }, batchSize, 'streams, at rest in shards'),
    ];
  });
}

function compareWay(
  request: PlanRequest,
  possible: PossibleWay,
  batchSize: number,
  name: string,
): ComparedWay {
  const { opened, refusal, batches } = possible;
  const none = { possible, name, plan: undefined, decode: undefined, stepMs: undefined, tokensPerSecond: 0 };
  if (!opened) return { ...none, refusal };
  const plan: Partial<PlanOptions> = { ...request.plan, ...possible.plan };
  const own = { ...request, model: opened.model, plan };
  try {
    const planned = planBatch(own, batchSize);
    const decode = predictDecode(own, planned, batchSize);
    const prefill = predictPrefill(own, planned, batchSize);
    if (!decode || !prefill) return { ...none, plan: planned, refusal: undefined };
    const { newTokens, promptTokens, machine } = request;
    const between = describedBetween(machine.devices);
    const stepMs = decode.totalMs + sumsMs(opened.model, batchSize, between);
    const promptMs = prefill.totalMs + sumsMs(opened.model, batchSize * promptTokens, between);
    const ms = promptMs + Math.max(0, newTokens - 1) * stepMs;
    const tokensPerSecond = (batches * batchSize * newTokens * 1e3) / ms;
    return { possible, name, plan: planned, refusal: undefined, decode, stepMs, tokensPerSecond };
  } catch (error) {
    return { ...none, refusal: refusalOf(error) };
  }
}

export function bestCompared(ways: readonly ComparedWay[]): ComparedWay {
  return bestOf(ways, ({ tokensPerSecond }) => tokensPerSecond);
}

export function waysText(ways: readonly ComparedWay[], batchSize: number, between: Between): string {
  const best = bestCompared(ways);
  const rows = ways.map((one) => [
    one.name,
    one.plan ? formatBytes(onDevice(one.plan)) : '',
    one.stepMs === undefined ? '' : `${one.stepMs.toFixed(1)} ms`,
    one.tokensPerSecond > 0 ? one.tokensPerSecond.toFixed(0) : '',
    noteOf(one, best),
  ]);
  const head = ['devices share by', 'at rest on them', 'a step', 'tokens/s', ''];
  return (
    `How devices could share batches of ${batchSize}: streams and a pipeline have one on each of them at once, tensor one on all; ` +
    `tokens of all devices, prompts included; ${saidOf(between)}:\n` +
    textTable([head, ...rows], ['left', 'right', 'right', 'right', 'left'])
  );
}

function noteOf(one: ComparedWay, best: ComparedWay): string {
  if (one.refusal !== undefined) return one.refusal;
  if (one === best) return 'taken';
  return one.tokensPerSecond > 0 ? '' : 'not known: the rate of the drive is missing';
}

/** Weights that rest on all devices together, those that rest on each of them once. */
function onDevice({ layers }: Plan): number {
  return layers.reduce((sum, { tier, layout }) => sum + (tier === 'gpu' ? layout.host.sizeBytes : 0), 0);
}

export function waysJson(ways: readonly ComparedWay[]) {
  const best = bestCompared(ways);
  return ways.map((one) => ({
    name: one.name,
    parallel: one.possible.way,
    isTaken: one === best,
    refusal: one.refusal ?? null,
    stepMs: one.stepMs ?? null,
    tokensPerSecond: one.tokensPerSecond > 0 ? one.tokensPerSecond : null,
    atRestBytes: one.plan ? onDevice(one.plan) : null,
  }));
}
