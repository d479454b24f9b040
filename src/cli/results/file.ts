// A file of results that a run may go on with: what lies beside it, and which settings it belongs to.

import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { OperatingError } from '../../../offload/index.js';
import { type JsonObject, parseJsonObject, reason, show, systemCode } from '../../files/json-file.js';
import { writeWhole } from '../../files/output-file.js';
import { outputTarget } from '../../files/output-target.js';

export { damagedPath } from '../../files/result-lines.js';

/** Whatever decides the texts: model, prompts, sampling; plain JSON values by option name. */
export type RunSettings = JsonObject;

/** Beside the results, because every line of theirs is a text. */
export function settingsPath(output: string): string {
  return `${output}.run.json`;
}

/** The file that results lie in; undefined for a pipe or a device, whose results cannot be gone on with. */
export function resultsFile(output: string): string | undefined {
  const target = outputTarget(output);
  return target.kind === 'file' ? target.path : undefined;
}

/** The whole file or, after an error (WRITE_FAILED), what was there before. @param results as `resultsFile` gives it */
export function writeSettings(results: string, settings: RunSettings): void {
  writeWhole(settingsPath(results), `${JSON.stringify(settings, undefined, 2)}\n`, '--output');
}

/** Settings of the run that wrote `output`; undefined where there are no results yet. Throws BAD_INPUT or NOT_FOUND. */
export function readSettings(output: string): RunSettings | undefined {
  const results = resultsFile(output);
  if (results === undefined) throw refusal(`${output} is no regular file: leave --resume out`);
  if (!(statSync(results, { throwIfNoEntry: false })?.size ?? 0)) return undefined;
  const path = settingsPath(results);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') {
      throw new OperatingError('NOT_FOUND', `${path} cannot be read: ${reason(error)}`, { cause: error });
    }
    throw refusal(
      `${output} has results, but ${path}, which says what they belong to, is missing: give another --output`,
    );
  }
  return parseJsonObject(text, path, 'BAD_INPUT');
}

/** Throws BAD_INPUT when the results belong to another run, with the first difference in anything but `except`. */
export function checkSettings(
  output: string,
  found: RunSettings,
  wanted: RunSettings,
  except: readonly string[] = [],
): void {
  const other = firstDifference(found, wanted, except);
  if (!other) return;
  throw refusal(
    `the results in ${output} belong to a run with other ${other.name} (${other.theirs} there, ${other.ours} now): ` +
      'give the same prompts and options, or another --output',
  );
}

/** A setting that differs, and both of its values as they are shown. */
export interface OtherSetting {
  readonly name: string;
  readonly theirs: string;
  readonly ours: string;
}

/** Undefined where all but `except` are the same. */
export function firstDifference(
  found: RunSettings,
  wanted: RunSettings,
  except: readonly string[] = [],
): OtherSetting | undefined {
  for (const name of new Set([...Object.keys(found), ...Object.keys(wanted)])) {
    const [theirs, ours] = [found[name] ?? null, wanted[name] ?? null];
    // Whole: what is shown of a long system message may be the same.
    if (JSON.stringify(theirs) === JSON.stringify(ours) || except.includes(name)) continue;
    return { name, theirs: show(theirs), ours: show(ours) };
  }
  return undefined;
}

/** The same for the same values in the same order. */
export function fingerprint(values: Iterable<unknown>): string {
  const hash = createHash('sha256');
  for (const value of values) hash.update(`${JSON.stringify(value)}\n`);
  return hash.digest('hex');
}

export function refusal(message: string): OperatingError {
  return new OperatingError('BAD_INPUT', `--resume: ${message}`);
}
