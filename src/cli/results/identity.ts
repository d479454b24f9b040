// Who makes the results of a run: weights, tokenizer and chat template by their content, and whether --resume has the same.

import { formatBytes, OperatingError } from '../../../offload/index.js';
import type { JsonObject } from '../../files/json-file.js';
import { chatTemplateText } from '../../text/chat.js';
import type { CommandContext } from '../context.js';
import type { GenerateOptions } from '../options/generate-options.js';
import type { Source } from '../source.js';
import { fingerprint, type RunSettings, readSettings, resultsFile } from './file.js';
import { tokenizerDigest } from './tokenizer-record.js';
import {
  compareWeights,
  recordWeights,
  type WeightRecord,
  weightsFromJson,
  weightsToJson,
} from './weight-record.js';

export interface Identity {
  readonly weights: readonly WeightRecord[];
  /** Digests; null where a run has none. */
  readonly tokenizer: string | null;
  readonly chatTemplate: string | null;
}

/** Undefined where nothing could go on with the results, so that nobody asks. */
export async function identityOf(
  source: Source,
  uses: { readonly tokenizer: boolean; readonly chatTemplate: boolean },
  { output }: Pick<GenerateOptions, 'output'>,
  context: CommandContext,
): Promise<Identity | undefined> {
  if (output === undefined || resultsFile(output) === undefined) return undefined;
  return readIdentity(source, uses, context);
}

export async function readIdentity(
  source: Source,
  uses: { readonly tokenizer: boolean; readonly chatTemplate: boolean },
  { progress, interrupt }: CommandContext,
): Promise<Identity> {
  const { checkpoint } = source.opened;
  const template = uses.chatTemplate ? await chatTemplateText(checkpoint.folder) : undefined;
  let line = 'looking at the weights';
  const work = recordWeights(checkpoint, {
    sha256: source.sha256,
    signal: interrupt.signal,
    onProgress: (done, total) => {
      line = `weights: ${formatBytes(done)} of ${formatBytes(total)} looked at`;
    },
  });
  return {
    weights: await progress.during(() => line, work),
    tokenizer: uses.tokenizer ? await tokenizerDigest(checkpoint.folder) : null,
    chatTemplate: template === undefined ? null : fingerprint([template]).slice(0, 16),
  };
}

/** As it stands in a run's settings. */
export function identitySettings({ weights, tokenizer, chatTemplate }: Identity): JsonObject {
  return { tokenizer, chat_template: chatTemplate, weights: weightsToJson(weights) };
}

/** Throws BAD_INPUT where the settings beside the results do not say which weights made them. */
export function requireWeights(output: string, settings: RunSettings): readonly WeightRecord[] {
  const weights = weightsFromJson(settings.weights);
  if (weights) return weights;
  throw new OperatingError(
    'BAD_INPUT',
    `--resume: the results in ${output} were begun by a version that did not keep which weights make them, or what it ` +
      'kept is damaged: give another --output',
  );
}

/** Throws BAD_INPUT when the results were made with other weights, or when that cannot be told. */
export async function checkWeights(
  output: string,
  source: Source,
  { weights }: Identity,
  { progress, interrupt, log }: CommandContext,
): Promise<void> {
  const found = readSettings(output);
  if (!found) return;
  const then = requireWeights(output, found);
  let line = 'comparing the weights';
  const work = compareWeights(then, weights, source.opened.checkpoint.files, {
    signal: interrupt.signal,
    onProgress: (done, total) => {
      line = `weights: ${formatBytes(done)} of ${formatBytes(total)} compared`;
    },
    onDoubt: (sentence) => log.warn(sentence),
  });
  const difference = await progress.during(() => line, work);
  if (difference === undefined) return;
  throw new OperatingError(
    'BAD_INPUT',
    `--resume: the results in ${output} belong to a run with other weights: ${difference}; give the same weights, or ` +
      'another --output',
  );
}
