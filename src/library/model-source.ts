// From what a program calls a model to an opened one: found, downloaded or copied first where need be.

import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { FileState, WeightFile } from '../../offload/index.js';
import { checksWhileDownloading } from '../engine/download-checks.js';
import { type ModelSampling, readGenerationConfig } from '../engine/generation-config.js';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { packedStore } from '../engine/packed-store.js';
import { configuredIds, openTokenizer } from '../engine/vocabulary.js';
import { checkType } from '../engine/weight-type.js';
import { ifThere } from '../files/if-there.js';
import { resolveModelFolder } from '../hub/model-folder.js';
import { placeWeights } from '../stored/weights-on-drives.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { OpenSettings } from './open-options.js';
import { badOption } from './option-check.js';

export interface ModelSource {
  readonly opened: OpenedModel;
  /** Where the weights are read from, and what these files were when they were known to be the checkpoint's. */
  readonly files: readonly WeightFile[];
  readonly fileStates: readonly FileState[];
  readonly tokenizer: Tokenizer | undefined;
  /** What a text without tokens begins with. */
  readonly startToken: number | undefined;
  readonly endTokens: ReadonlySet<number>;
  /** The model's own way of choosing tokens, if it is to count. */
  readonly own: ModelSampling | undefined;
}

/** Reads headers only, unless files have to come first. Rejects with what is wrong with them, or the signal's reason. */
export async function openSource(settings: OpenSettings, signal: AbortSignal): Promise<ModelSource> {
  const folder = await weightsFolder(await folderOf(settings, signal), settings, signal);
  const opened = await openModel(folder);
  checkType(opened, settings.dtype);
  signal.throwIfAborted();
  const tokenizer = await openTokenizer(folder);
  const { files, fileStates } = await stage(opened, settings, signal);
  return {
    opened,
    files,
    fileStates,
    tokenizer,
    startToken: tokenizer?.bosTokenId ?? configuredIds(opened, 'bos')[0],
    own: settings.generationConfig ? ownSampling(opened) : undefined,
    endTokens: new Set(tokenizer?.eosTokenIds ?? configuredIds(opened, 'eos')),
  };
}

/** Throws BAD_CONFIG. */
function ownSampling({ checkpoint, model }: OpenedModel): ModelSampling | undefined {
  const { folder, generationConfig } = checkpoint;
  if (Object.keys(generationConfig).length === 0) return undefined;
  const path = join(folder, 'generation_config.json');
  return readGenerationConfig(generationConfig, path, model.maxContextTokens);
}

async function folderOf(
  { model, revision, logger, onProgress }: OpenSettings,
  signal: AbortSignal,
): Promise<string> {
  if (revision !== undefined && (await ifThere(model, stat(model)))) {
    throw badOption(`revision is for models of the hub, and the model is the folder ${model}: leave it out`);
  }
  const folder = await resolveModelFolder(model, {
    revision,
    signal,
    onDownload: (cacheFolder) => logger.info(`downloading ${model} into ${cacheFolder}`),
    onProgress: ({ doneBytes, totalBytes }) => onProgress({ phase: 'download', doneBytes, totalBytes }),
    ...checksWhileDownloading({}),
  });
  return resolve(folder);
}

/** The folder itself, or that of the same weights packed. */
async function weightsFolder(
  folder: string,
  { model, packed, logger, onProgress }: OpenSettings,
  signal: AbortSignal,
): Promise<string> {
  if (packed === undefined) return folder;
  return packedStore(await openModel(folder), {
    name: model,
    weights: packed,
    signal,
    onProgress: (doneBytes, totalBytes) => onProgress({ phase: 'pack', doneBytes, totalBytes }),
    onWait: (holder) => logger.info(`${holder} is packing the same weights: waiting for it`),
    log: (message) => logger.info(message),
  });
}

async function stage(
  { checkpoint }: OpenedModel,
  { nvmePaths, logger, onProgress }: OpenSettings,
  signal: AbortSignal,
): Promise<Pick<ModelSource, 'files' | 'fileStates'>> {
  if (nvmePaths.length === 0) return checkpoint;
  const wishes = nvmePaths.map((folder) => ({ folder, bytesPerSecond: undefined }));
  const staged = await placeWeights(checkpoint, wishes, {
    onProgress: (doneBytes, totalBytes, phase) => onProgress({ phase, doneBytes, totalBytes }),
    signal,
    log: (message) => logger.info(message),
    warn: (message) => logger.warn(message),
    env: process.env,
  });
  return staged.folder === checkpoint.folder ? checkpoint : staged;
}
