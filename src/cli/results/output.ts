// The file that results go to: opened where an earlier run has left it, with its settings beside it.

import { OperatingError } from '../../../offload/index.js';
import { JsonLinesFile } from '../../files/json-lines-file.js';
import { openStream } from '../../files/output-file.js';
import { outputTarget } from '../../files/output-target.js';
import type { CommandContext } from '../context.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { type RunSettings, resultsFile, writeSettings } from './file.js';
import { dropDamaged, type FinishedTexts } from './lines.js';

/** What the results belong to, and what there is of them. */
interface Results {
  readonly settings: RunSettings;
  readonly finished: FinishedTexts;
  readonly options: Pick<GenerateOptions, 'overwrite'>;
}

/**
 * Emptied before its settings are written, so that settings never stand beside another run's results; where prompts have
 * come after those of the results, the settings say so before there is a text of them.
 */
export async function openResults(
  path: string,
  { settings, finished, options }: Results,
  { log, interrupt }: CommandContext,
): Promise<JsonLinesFile> {
  const results = resultsFile(path);
  const file = new JsonLinesFile(path, '--output');
  if (results === undefined) {
    const { kind } = outputTarget(path);
    const stream = kind === 'stream' ? await openStream(path, '--output', interrupt.signal) : undefined;
    file.open(0, undefined, stream);
    return file;
  }
  const { keptBytes, fileBytes } = dropDamaged(results, finished);
  file.open(keptBytes, options.overwrite ? undefined : fileBytes);
  try {
    writeSettings(results, settings);
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    log.warn(`--resume will not be able to go on with these results: ${error.message}`);
  }
  return file;
}
