// A file of results that a run may go on with: which settings it belongs to, and which texts it already has.

import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, type JsonObject, parseJsonObject, reason, show, systemCode } from './json-file.js';
import { writeWhole } from './output-file.js';

/** Whatever decides the texts: model, prompts, sampling; plain JSON values by option name. */
export type RunSettings = JsonObject;

/** What a file of results holds. */
export interface FinishedTexts {
  /** Places of the texts, as `placeOf` gave them. */
  readonly places: ReadonlySet<number>;
  /** Up to the end of the last whole line. */
  readonly wholeBytes: number;
  /** Of a line that was cut off while it was written. */
  readonly tornBytes: number;
}

/** Beside the results, because every line of theirs is a text. */
export function settingsPath(output: string): string {
  return `${output}.run.json`;
}

/** Results that go to a pipe or a device cannot be gone on with. */
export function isResumable(output: string): boolean {
  return statSync(output, { throwIfNoEntry: false })?.isFile() ?? true;
}

/** The whole file or, after an error (WRITE_FAILED), what was there before. */
export function writeSettings(output: string, settings: RunSettings): void {
  writeWhole(settingsPath(output), `${JSON.stringify(settings, undefined, 2)}\n`, '--output');
}

/** Settings of the run that wrote `output`; undefined where there are no results yet. Throws BAD_INPUT or NOT_FOUND. */
export function readSettings(output: string): RunSettings | undefined {
  const found = statSync(output, { throwIfNoEntry: false });
  if (!found || (found.isFile() && found.size === 0)) return undefined;
  if (!found.isFile()) throw refusal(`${output} is no regular file: leave --resume out`);
  const path = settingsPath(output);
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

/** Throws BAD_INPUT when the results belong to another run, with the first difference. */
export function checkSettings(output: string, found: RunSettings, wanted: RunSettings): void {
  for (const name of new Set([...Object.keys(found), ...Object.keys(wanted)])) {
    const [theirs, ours] = [found[name], wanted[name]].map((value) => show(value ?? null));
    if (theirs === ours) continue;
    throw refusal(
      `the results in ${output} belong to a run with other ${name} (${theirs} there, ${ours} now): ` +
        'give the same prompts and options, or another --output',
    );
  }
}

const CHUNK_BYTES = 1 << 20;
const NEWLINE = 10;

/**
 * Reads what is there, in pieces. A last line that is no whole record was being written when the program ended.
 * @param placeOf the place of a record's text among all, or why the record does not belong to this run
 * Throws BAD_INPUT for a record that does not belong, comes twice, or is damaged before the last line.
 */
export function readFinished(
  output: string,
  placeOf: (record: JsonObject) => number | string,
): FinishedTexts {
  const places = new Set<number>();
  let [wholeBytes, lineNumber] = [0, 0];
  for (const { line, isWhole, isLast } of linesOf(output)) {
    lineNumber++;
    const record = isWhole ? parseRecord(line) : undefined;
    if (!record && isLast) return { places, wholeBytes, tornBytes: line.length + Number(isWhole) };
    const place = record ? placeOf(record) : 'is no JSON object';
    const problem =
      typeof place === 'string' ? place : places.has(place) ? 'is a text that was there before' : '';
    if (problem !== '') {
      throw refusal(`line ${lineNumber} of ${output} ${problem}: it is not what this run has written`);
    }
    if (typeof place === 'number') places.add(place);
    wholeBytes += line.length + 1;
  }
  return { places, wholeBytes, tornBytes: 0 };
}

interface Line {
  readonly line: Buffer;
  /** It ends with a newline, */
  readonly isWhole: boolean;
  /** after which nothing comes. */
  readonly isLast: boolean;
}

function* linesOf(path: string): Generator<Line, void> {
  const file = openSync(path, 'r');
  try {
    let rest: Buffer<ArrayBufferLike> = Buffer.alloc(0);
    let complete: Buffer | undefined;
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const count = readSync(file, chunk);
      if (count === 0) break;
      rest = Buffer.concat([rest, chunk.subarray(0, count)]);
      for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
        // Held back until it is known whether another one follows.
        if (complete) yield { line: complete, isWhole: true, isLast: false };
        complete = rest.subarray(0, end);
        rest = rest.subarray(end + 1);
      }
    }
    if (complete) yield { line: complete, isWhole: true, isLast: rest.length === 0 };
    if (rest.length > 0) yield { line: rest, isWhole: false, isLast: true };
  } finally {
    closeSync(file);
  }
}

function parseRecord(line: Buffer): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(line.toString('utf8'));
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The same for the same values in the same order. */
export function fingerprint(values: Iterable<unknown>): string {
  const hash = createHash('sha256');
  for (const value of values) hash.update(`${JSON.stringify(value)}\n`);
  return hash.digest('hex');
}

function refusal(message: string): OperatingError {
  return new OperatingError('BAD_INPUT', `--resume: ${message}`);
}
