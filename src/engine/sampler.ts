// How tokens are drawn: the settings, their checks, and random bits that depend on nothing but what is drawn.

import { OperatingError, type SamplingRow } from '../../offload/index.js';
import { addsToLogits, type LogitChanges, MOST_BIASES } from './added-logits.js';

export interface SamplingSettings extends LogitChanges {
  /** 0: the likeliest token. */
  readonly temperature: number;
  /** Only the k likeliest; 0 for all. */
  readonly topK: number;
  /** Only the likeliest that together have this probability; 1 for all. */
  readonly topP: number;
  /** Only tokens at least this many times as likely as the likeliest; 0 for all. */
  readonly minP: number;
  /** Above 1, tokens of the prompt and of the text so far become less likely; 1 for none. */
  readonly repetitionPenalty: number;
  /** A whole number from 0 to 2⁵³ − 1. */
  readonly seed: number;
}

const NO_BIASES: ReadonlyMap<number, number> = new Map();
/** Beyond it nothing changes any more, and sums stay numbers. */
const MOST_ADDED = 1000;
const ADDED = `a number from -${MOST_ADDED} to ${MOST_ADDED}`;

export const GREEDY: SamplingSettings = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
};

/** Nothing but the largest of the model's own logits decides. */
export function isGreedy(settings: SamplingSettings): boolean {
  const { temperature, repetitionPenalty } = settings;
  return temperature === 0 && repetitionPenalty === 1 && !addsToLogits(settings);
}

export interface UnusableSetting {
  readonly option: string;
  readonly value: number;
  /** What to give instead. */
  readonly wanted: string;
}

/** The first value that is out of its range. */
export function unusableSetting(settings: SamplingSettings): UnusableSetting | undefined {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = settings;
  const { presencePenalty = 0, frequencyPenalty = 0, biases = NO_BIASES } = settings;
  const biased = [...biases.values()].find((bias) => !(Math.abs(bias) <= MOST_ADDED)) ?? 0;
  const rules: readonly (readonly [boolean, string, number, string])[] = [
    [temperature >= 0 && temperature < 1e6, 'temperature', temperature, 'a number from 0 to 1,000,000'],
    [Number.isSafeInteger(topK) && topK >= 0 && topK < 2 ** 31, 'top_k', topK, 'a whole number from 0'],
    [topP > 0 && topP <= 1, 'top_p', topP, 'a number above 0 and up to 1'],
    [minP >= 0 && minP <= 1, 'min_p', minP, 'a number from 0 to 1'],
    [
      repetitionPenalty > 0 && repetitionPenalty < 1e6,
      'repetition_penalty',
      repetitionPenalty,
      'a number above 0 and up to 1,000,000',
    ],
    [Math.abs(presencePenalty) <= MOST_ADDED, 'presence_penalty', presencePenalty, ADDED],
    [Math.abs(frequencyPenalty) <= MOST_ADDED, 'frequency_penalty', frequencyPenalty, ADDED],
    [biased === 0, 'logit_bias', biased, ADDED],
    [biases.size <= MOST_BIASES, 'logit_bias', biases.size, `biases of up to ${MOST_BIASES} tokens`],
    [Number.isSafeInteger(seed) && seed >= 0, 'seed', seed, 'a whole number from 0 to 2^53 - 1'],
  ];
  const broken = rules.find(([holds]) => !holds);
  return broken && { option: broken[1], value: broken[2], wanted: broken[3] };
}

export function samplingProblem(settings: SamplingSettings): OperatingError | undefined {
  const wrong = unusableSetting(settings);
  return (
    wrong && new OperatingError('BAD_OPTION', `--${wrong.option} is ${wrong.value}: give ${wrong.wanted}`)
  );
}

/** Throws BAD_OPTION for a value out of its range. */
export function checkSampling(settings: SamplingSettings): void {
  const problem = samplingProblem(settings);
  if (problem) throw problem;
}

/** Which draw it is: the same whatever else is computed, where, and in which order. */
export interface Draw {
  /** Index of the prompt in the input. */
  readonly prompt: number;
  /** Index among the prompt's continuations. */
  readonly sample: number;
  /** Index among the new tokens. */
  readonly step: number;
}

/** @param tokens prompt and continuation so far; only asked for where they matter */
export function samplingRow(settings: SamplingSettings, draw: Draw, tokens: () => Int32Array): SamplingRow {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = settings;
  const history = repetitionPenalty === 1 ? new Int32Array(0) : tokens();
  const [randomBits] = philox([draw.prompt, draw.sample, draw.step, 0], [seed, Math.floor(seed / 2 ** 32)]);
  return { temperature, topK, topP, minP, repetitionPenalty, history, randomBits };
}

type Four = [number, number, number, number];

/**
 * Philox 4×32 with ten rounds (Salmon et al. 2011): a counter and a key become 128 random bits, without any state.
 * All numbers are taken modulo 2³².
 */
export function philox(counter: Readonly<Four>, key: readonly [number, number]): Four {
  let [a, b, c, d] = counter;
  let [k0, k1] = [key[0] | 0, key[1] | 0];
  for (let round = 0; round < 10; round++) {
    const [highA, lowA] = product(a, 0xd2511f53);
    const [highC, lowC] = product(c, 0xcd9e8d57);
    [a, b, c, d] = [highC ^ b ^ k0, lowC, highA ^ d ^ k1, lowA];
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}

/** High and low half of a product of two 32-bit numbers. */
function product(x: number, y: number): [number, number] {
  const [x1, x0, y1, y0] = [(x >>> 16) & 0xffff, x & 0xffff, y >>> 16, y & 0xffff];
  const middle = x1 * y0 + ((x0 * y0) >>> 16);
  const carried = x0 * y1 + (middle % 0x10000);
  return [x1 * y1 + Math.floor(middle / 0x10000) + Math.floor(carried / 0x10000), Math.imul(x, y)];
}
