// `merge`: the shares of a run, checked to be whole and of one run, become one file in the order of the prompts.

import { setImmediate } from 'node:timers/promises';
import { counted, OperatingError } from '../../offload/index.js';
import { writeError } from '../files/output-file.js';
import { outputTarget } from '../files/output-target.js';
import { replaceFile } from '../files/replace-file.js';
import type { CommandContext } from './context.js';
import type { MergeOptions } from './options/merge-options.js';
import { badOption } from './options/option-reader.js';
import { settingsPath, writeSettings } from './results/file.js';
import { checkFiles } from './results/run-files.js';
import { commonSettings, sharesIn, TextIndex } from './results/shares.js';

export async function runMerge(options: MergeOptions, context: CommandContext): Promise<void> {
  const { folder, output, overwrite } = options;
  const { log, progress, interrupt } = context;
  const shares = sharesIn(folder);
  const read = shares.flatMap(({ path }) => [path, settingsPath(path)]);
  for (const path of read) checkFiles({ merge: path }, { '--output': output });
  const target = outputTarget(output);
  if (target.kind !== 'file') throw badOption(`--output: ${output} is no regular file: give a path of one`);
  if ((target.found?.size ?? 0n) > 0n && !overwrite) {
    throw badOption(`--output: ${output} has results: add --overwrite to replace them, or give another path`);
  }
  const settings = commonSettings(shares);
  const texts = new TextIndex(shares, settings);
  const reading = async () => {
    for (const _ of texts.read()) {
      interrupt.signal.throwIfAborted();
      await setImmediate();
    }
  };
  await progress.during(
    () => `reading shares: ${texts.found} of ${counted(texts.length, 'text')}`,
    reading(),
  );
  texts.checkComplete();
  try {
    const lines = texts.lines(() => interrupt.signal.throwIfAborted());
    replaceFile(target.path, target.found, lines);
  } catch (error) {
    if (error instanceof OperatingError) throw error;
    interrupt.signal.throwIfAborted();
    throw writeError(output, '--output', error);
  }
  writeSettings(target.path, settings);
  log.info(`${output} has all ${counted(texts.length, 'text')} of ${counted(shares.length, 'share')}`);
}
