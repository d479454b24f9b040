// What a program says about one text, checked: how tokens are drawn, and where the text ends.

import { randomInt } from 'node:crypto';
import type { ModelSampling } from '../engine/generation-config.js';
import type { TokenConstraint, Turn } from '../engine/request.js';
import { GREEDY, isGreedy, type SamplingSettings, unusableSetting } from '../engine/sampler.js';
import { idProblem } from '../text/token-ids.js';
import { badOption, Options, shown } from './option-check.js';
import type { GenerateOptions, Signal } from './types.js';

/** As many as OpenAI's clients may ask for. */
export const MOST_TOP_LOG_PROBS = 20;

export interface TextSettings {
  readonly maxNewTokens: number | undefined;
  /** Undefined: the likeliest token at every step. */
  readonly sampling: SamplingSettings | undefined;
  readonly stopStrings: readonly string[];
  /** Undefined: those of the model. */
  readonly stopTokens: ReadonlySet<number> | undefined;
  readonly system: string | undefined;
  readonly logProbs: boolean;
  /** Which of a prompt's texts this is; default 0. */
  readonly sample?: number;
  /** And of so many of the likeliest tokens in place of each; default 0. */
  readonly topLogProbs?: number;
  /** How likely the prompt's own tokens are, too; goes with `logProbs`. */
  readonly promptLogProbs?: boolean;
  readonly turn?: Turn;
  /** Makes what this text has to obey. */
  readonly constraint?: () => Promise<TokenConstraint>;
  /** Special tokens that are part of the text, and what they are written as. */
  readonly shownTokens?: ReadonlyMap<number, string>;
  readonly signal: Signal | undefined;
}

/** The names that are used elsewhere, and those of this package. */
const SAMPLING_NAMES: Readonly<Record<string, string>> = {
  temperature: 'temperature',
  top_k: 'topK',
  top_p: 'topP',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  seed: 'seed',
};

const NAMES = [
  'maxNewTokens',
  ...Object.values(SAMPLING_NAMES),
  'stop',
  'stopTokens',
  'system',
  'logProbs',
  'topLogProbs',
  'signal',
] as const satisfies readonly string[];

/** What has no effect unless tokens are drawn. */
const OF_DRAWING = ['topK', 'topP', 'minP', 'seed'];

/** What texts are made with that say nothing else. */
export type TextDefaults = Pick<ModelSampling, 'sampling' | 'stopStrings'>;

/** Throws BAD_OPTION. @param own the model's own settings, if they are to count */
export function readGenerateOptions(
  given: GenerateOptions | undefined,
  vocabSize: number,
  own?: TextDefaults,
): TextSettings {
  const options = new Options(given, NAMES, 'the options of a text');
  return {
    maxNewTokens: options.count('maxNewTokens'),
    sampling: readSampling(options, own?.sampling),
    stopStrings: readStop(options.value('stop')) ?? own?.stopStrings ?? [],
    stopTokens: readStopTokens(options.value('stopTokens'), vocabSize),
    system: options.text('system'),
    ...readLogProbs(options),
    signal: options.signal('signal'),
  };
}

function readLogProbs(options: Options): Pick<TextSettings, 'logProbs' | 'topLogProbs'> {
  const logProbs = options.flag('logProbs') ?? false;
  const topLogProbs = options.number('topLogProbs') ?? 0;
  if (!Number.isInteger(topLogProbs) || topLogProbs < 0 || topLogProbs > MOST_TOP_LOG_PROBS) {
    throw badOption(`topLogProbs is ${topLogProbs}: give a whole number from 0 to ${MOST_TOP_LOG_PROBS}`);
  }
  if (topLogProbs > 0 && !logProbs)
    throw badOption('topLogProbs is told beside logProbs: give logProbs: true');
  return { logProbs, ...(topLogProbs > 0 ? { topLogProbs } : {}) };
}

function readSampling(
  options: Options,
  own: TextDefaults['sampling'] | undefined,
): SamplingSettings | undefined {
  const temperature = options.number('temperature');
  const idle = OF_DRAWING.find((name) => options.has(name));
  if (temperature === undefined && idle !== undefined && !own) {
    throw badOption(`${idle} is for drawing tokens: give a temperature as well, such as 0.8`);
  }
  const otherwise = own ?? GREEDY;
  const settings: SamplingSettings = {
    temperature: temperature ?? otherwise.temperature,
    topK: options.number('topK') ?? otherwise.topK,
    topP: options.number('topP') ?? otherwise.topP,
    minP: options.number('minP') ?? otherwise.minP,
    repetitionPenalty: options.number('repetitionPenalty') ?? otherwise.repetitionPenalty,
    seed: options.number('seed') ?? randomInt(2 ** 48 - 1),
  };
  const wrong = unusableSetting(settings);
  if (wrong) {
    throw badOption(
      `${SAMPLING_NAMES[wrong.option] ?? wrong.option} is ${wrong.value}: give ${wrong.wanted}`,
    );
  }
  return isGreedy(settings) ? undefined : settings;
}

function readStop(given: unknown): readonly string[] | undefined {
  if (given === undefined) return undefined;
  const strings: readonly unknown[] = Array.isArray(given) ? given : [given];
  const wrong = strings.findIndex((string) => typeof string !== 'string' || string === '');
  if (wrong === -1) return strings as readonly string[];
  throw badOption(`stop has ${shown(strings[wrong])}: give texts that are not empty`);
}

function readStopTokens(given: unknown, vocabSize: number): ReadonlySet<number> | undefined {
  if (given === undefined) return undefined;
  if (!Array.isArray(given)) throw badOption(`stopTokens is ${shown(given)}: give a list of token ids`);
  const problem = idProblem(given, vocabSize, 'stopTokens');
  if (problem) throw badOption(problem.message);
  return new Set(given as readonly number[]);
}
