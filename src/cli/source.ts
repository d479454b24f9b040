// From --name to an opened model: a checkpoint's folder or a shape with random weights, on the drive that was asked for.

import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  counted,
  type FileState,
  formatBytes,
  formatRate,
  OperatingError,
  type WeightFile,
} from '../../offload/index.js';
import type { TextWishes } from '../engine/download-checks.js';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { shapeConfig, shapeTensors, shapeType } from '../engine/shape-tensors.js';
import { openedAs } from '../engine/ways.js';
import { checkType } from '../engine/weight-type.js';
import { readOptionalJsonObject } from '../files/json-file.js';
import { buildArchitecture } from '../models/registry.js';
import type { DriveShare } from '../staging/staging.js';
import type { DriveWish } from '../stored/drive-rates.js';
import { dummyFolder, notePlace } from '../stored/places.js';
import type { CommandContext } from './context.js';
import { modelFolder } from './hub-model.js';
import { badOption } from './options/option-reader.js';
import type { SharedOptions } from './options/shared-settings.js';
import { packedModel } from './packed-model.js';

export interface Source {
  readonly opened: OpenedModel;
  /** Where the weights are read from; the checkpoint's own files unless they were copied to another drive. */
  readonly files: readonly WeightFile[];
  /** What they were when it was made sure that they are the checkpoint's. */
  readonly fileStates: readonly FileState[];
  /** Digest of each file's content, where copying has told. */
  readonly sha256?: readonly string[];
  /** Where they are striped over several drives. */
  readonly drives?: readonly DriveShare[];
}

/** Reads headers only, unless weights have to be made or copied first. */
export async function openSource(
  options: SharedOptions,
  context: CommandContext,
  wants?: TextWishes,
): Promise<Source> {
  for (const warning of options.warnings) context.log.warn(warning);
  const startMs = performance.now();
  const folder = options.dummyWeights
    ? await dummyCheckpoint(options, options.dummyWeights.folder, context)
    : await realModel(options, context, wants);
  const { early } = context;
  const own = early?.options.folder === folder ? early.opened : await openModel(folder);
  const opened = openedAs(own, options.parallel, options.deviceCount);
  checkType(opened, options.dtype);
  for (const warning of opened.warnings) context.log.warn(warning);
  const { checkpoint, model } = opened;
  context.log.debug(
    `${folder}: ${model.architecture}, ${counted(checkpoint.tensors.size, 'tensor')} in ${counted(checkpoint.files.length, 'file')}, ` +
      `${formatBytes(checkpoint.totalBytes)}; headers read in ${(performance.now() - startMs).toFixed(0)} ms`,
  );
  const { files, fileStates, sha256, drives } = await stage(opened, options.offloadDrives, context);
  return { opened, files, fileStates, ...(sha256 ? { sha256 } : {}), ...(drives ? { drives } : {}) };
}

async function realModel(
  { name, revision, packed }: SharedOptions,
  context: CommandContext,
  wants: TextWishes | undefined,
): Promise<string> {
  refuseShape(name);
  const folder = await modelFolder(name, revision, context, wants);
  return packed === undefined ? folder : packedModel(folder, name, packed, context);
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

function refuseShape(name: string): void {
  if (name.endsWith('.json') && isFile(name)) {
    throw badOption(`--name is the shape ${name}, which has no weights: add --dummy_weights for random ones`);
  }
}

/** Makes the checkpoint at the first call; later calls find it by shape, type and configuration. */
async function dummyCheckpoint(
  options: SharedOptions,
  parent: string | undefined,
  { log, progress, interrupt }: CommandContext,
): Promise<string> {
  const path = options.name;
  const shape = path.endsWith('.json') ? await readOptionalJsonObject(path, 'BAD_CONFIG') : undefined;
  if (!shape) {
    const problem = path.endsWith('.json') ? 'there is no such file' : 'that is no .json file';
    throw new OperatingError(
      'NOT_FOUND',
      `--dummy_weights makes weights for a shape, and --name is '${path}': ${problem}; see configs/models`,
    );
  }
  const type = options.dtype ?? shapeType(shape);
  const architecture = buildArchitecture(shape, path);
  const config = shapeConfig(shape, architecture, type);
  const hash = createHash('sha256').update(JSON.stringify(config)).digest('hex').slice(0, 8);
  const folder = join(parent ?? dummyFolder(process.env), `${basename(path, '.json')}-${type}-${hash}`);
  const tensors = shapeTensors(architecture, type);
  const { ensureDummyCheckpoint } = await import('../dummy/store.js');
  let line = 'looking at the random weights';
  const work = ensureDummyCheckpoint({
    config,
    tensors,
    folder,
    seed: 1,
    onProgress: (done, total, phase) => {
      const verb = phase === 'write' ? 'written' : 'compared';
      line = `random weights: ${formatBytes(done)} of ${formatBytes(total)} ${verb}`;
    },
    onWait: (holder) => log.info(`${holder} is writing the same random weights: waiting for it`),
    log: (message) => log.info(message),
    signal: interrupt.signal,
  });
  await progress.during(() => line, work);
  if (parent !== undefined) await notePlace(parent, process.env);
  return folder;
}

function drivesText(drives: readonly DriveShare[]): string {
  return drives
    .map(({ folder, bytesPerSecond }) => `${folder} (${formatRate(bytesPerSecond)})`)
    .join(' and ');
}

async function stage(
  { checkpoint }: OpenedModel,
  drives: readonly DriveWish[],
  { log, progress, interrupt }: CommandContext,
): Promise<Omit<Source, 'opened'>> {
  if (drives.length === 0) return checkpoint;
  const { placeWeights } = await import('../stored/weights-on-drives.js');
  let line = 'looking at the weights';
  const work = placeWeights(checkpoint, drives, {
    onProgress: (done, total, phase) => {
      const verb = phase === 'copy' ? 'copied' : 'compared';
      line = `weights: ${formatBytes(done)} of ${formatBytes(total)} ${verb}`;
    },
    signal: interrupt.signal,
    log: (message) => log.info(message),
    warn: (message) => log.warn(message),
    env: process.env,
  });
  const staged = await progress.during(() => line, work);
  if (staged.drives) {
    log.info(`weights are read from ${drivesText(staged.drives)}${staged.copied ? ', striped now' : ''}`);
    return staged;
  }
  log.info(
    staged.folder === checkpoint.folder
      ? `weights are read in place from ${staged.folder}`
      : `weights are read from the copy in ${staged.folder}${staged.copied ? ', made now' : ''}`,
  );
  return staged.folder === checkpoint.folder ? checkpoint : staged;
}
