// Which files a run reads and which it writes: none of the first may be one of the second, by whatever name.

import { basename, dirname, join, resolve } from 'node:path';
import { pathsOf, type WeightFile } from '../../../offload/index.js';
import type { Checkpoint } from '../../checkpoint/checkpoint.js';
import { isModelFile, modelFilesIn } from '../../checkpoint/model-files.js';
import { STDIN } from '../../files/input.js';
import {
  checkReplaceable,
  checkWritable,
  MACHINE,
  REPORT,
  SETTINGS,
  TRACE,
  type WholeFile,
} from '../../files/output-file.js';
import {
  identityOf,
  identityOfDescriptor,
  identityOfPath,
  type OutputTarget,
  outputTarget,
  placeOf,
} from '../../files/output-target.js';
import { badOption } from '../options/option-reader.js';
import type { SharedOptions } from '../options/shared-settings.js';
import { damagedPath, settingsPath } from './file.js';

/** Paths by the option that names them. */
export type PathsByOption = Readonly<Record<string, string | undefined>>;

interface Output {
  readonly option: string;
  readonly path: string;
  readonly target: OutputTarget;
  /** What is written to it, where it is written whole. */
  readonly whole?: WholeFile | undefined;
}

const WHOLE_FILES: Readonly<Record<string, WholeFile>> = {
  '--report': REPORT,
  '--trace': TRACE,
  '--save': MACHINE,
};

/**
 * Before anything is loaded or written: a run of hours must not end with a file that cannot be written, nor one
 * option's file take the place of another's or of the model's. Throws BAD_OPTION or WRITE_FAILED.
 * @param modelFolder whose files are inputs as well, if there is such a folder
 */
export function checkFiles(inputs: PathsByOption, outputs: PathsByOption, modelFolder?: string): void {
  const found = outputsOf(outputs);
  refuseInputs(found, inputs);
  refuseEachOther(found);
  if (modelFolder !== undefined) refuseModelFiles(found, modelFolder, modelFilesIn(modelFolder));
  for (const { option, target, whole } of found) if (whole) checkReplaceable(target, option, whole);
}

/** Where a model lies, and what is read of it. */
interface ModelPlace {
  readonly opened: { readonly checkpoint: Pick<Checkpoint, 'folder' | 'files'> };
  readonly files: readonly WeightFile[];
}

/** The same once it is known where the model lies, and its copy on another drive. */
export function checkModelFiles(outputs: PathsByOption, { opened, files }: ModelPlace): void {
  const { folder, files: stored } = opened.checkpoint;
  const paths = pathsOf(files);
  const found = outputsOf(outputs);
  refuseModelFiles(found, folder, [...paths, ...stored, ...modelFilesIn(folder)]);
  refuseInside(found, new Set(paths.map(dirname).filter((copies) => copies !== folder)));
}

/** Copies of weights lie in folders of their own, where all that is there is about them. */
function refuseInside(outputs: readonly Output[], folders: ReadonlySet<string>): void {
  const kept = new Set([...folders].map(identityOfPath));
  for (const { option, path, target } of outputs) {
    if (target.kind !== 'file' || !kept.has(identityOfPath(dirname(target.path)))) continue;
    throw badOption(
      `${option}: ${path} lies among copies of weights, where nothing else may: give another path`,
    );
  }
}

/** Files that every command may read. */
export function sharedInputs({ name, dsConfig }: Pick<SharedOptions, 'name' | 'dsConfig'>): PathsByOption {
  return { '--name': name.endsWith('.json') ? name : undefined, '--ds_config': dsConfig?.path };
}

function outputsOf(outputs: PathsByOption): Output[] {
  return Object.entries(outputs).flatMap(([option, path]) => {
    if (path === undefined) return [];
    const target = checkWritable(path, option);
    const beside = option === '--output' && target.kind === 'file' ? besideResults(target.path) : [];
    return [{ option, path, target, whole: WHOLE_FILES[option] }, ...beside];
  });
}

/** Results bring files of their own along; where those cannot be written, a run can still be made. */
function besideResults(results: string): Output[] {
  const files: [string, WholeFile | undefined][] = [
    [settingsPath(results), SETTINGS],
    [damagedPath(results), undefined],
  ];
  return files.flatMap(([path, whole]) => {
    try {
      return [{ option: '--output', path, target: outputTarget(path), whole }];
    } catch {
      return [];
    }
  });
}

function refuseInputs(outputs: readonly Output[], inputs: PathsByOption): void {
  const written = writtenBy(outputs);
  for (const [option, path] of Object.entries(inputs)) {
    if (path === undefined || path === STDIN) continue;
    const other = outputs.find((output) => resolve(output.path) === resolve(path));
    if (other && identityOf(other.target) !== undefined) {
      throw badOption(`${option} and ${other.option} are both ${path}: give each a file of its own`);
    }
    const what = written.get(identityOfPath(path) ?? '');
    if (what !== undefined) {
      throw badOption(`${what} is the file ${path}, which ${option} reads: give each a file of its own`);
    }
  }
  // It is read wherever no other prompts are given.
  const what = written.get(identityOfDescriptor(0) ?? '');
  if (what !== undefined) {
    throw badOption(`${what} is the file that stdin comes from: give each a file of its own`);
  }
}

function refuseModelFiles(outputs: readonly Output[], folder: string, files: readonly string[]): void {
  const written = writtenBy(outputs);
  for (const path of files) {
    const what = written.get(identityOfPath(path) ?? '');
    if (what !== undefined) throw badOption(`${what} is ${path}, a file of the model: give another path`);
  }
  for (const { option, path, target } of outputs) {
    if (target.kind !== 'file' || target.found) continue;
    const name = basename(target.path);
    if (!isModelFile(name) || placeOf(join(folder, name)) !== identityOf(target)) continue;
    throw badOption(
      `${option}: ${path} would be taken for a file of the model in ${folder}: give another path`,
    );
  }
}

function refuseEachOther(outputs: readonly Output[]): void {
  const streams = streamFiles();
  const seen = new Map<string, Output>();
  for (const output of outputs) {
    const { option, path, target } = output;
    const identity = identityOf(target);
    if (identity === undefined) continue;
    const other = seen.get(identity);
    if (other) throw badOption(`${other.option} and ${option} are both ${path}: give each a file of its own`);
    seen.set(identity, output);
    const stream = target.kind === 'file' ? streams.get(identity) : undefined;
    if (stream === undefined) continue;
    throw badOption(`${option}: ${path} is the file that ${stream} goes to: give each a file of its own`);
  }
}

/** What is written, in words, by identity. Where stdout and stderr are files, they are written as well. */
function writtenBy(outputs: readonly Output[]): ReadonlyMap<string, string> {
  const written = new Map(streamFiles());
  for (const { option, path, target } of outputs) {
    const identity = identityOf(target);
    if (identity !== undefined) written.set(identity, `${option}: ${path}`);
  }
  return written;
}

function streamFiles(): ReadonlyMap<string, string> {
  const streams = new Map<string, string>();
  for (const [descriptor, name] of [
    [2, 'stderr'],
    [1, 'stdout'],
  ] as const) {
    const identity = identityOfDescriptor(descriptor);
    if (identity !== undefined) streams.set(identity, name);
  }
  return streams;
}
