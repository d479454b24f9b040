// Lines that a run has written as results: which are there, and how damaged ones are taken out of the file.

import { isUtf8 } from 'node:buffer';
import { closeSync, existsSync, fstatSync, fsyncSync, openSync, readSync } from 'node:fs';
import { isJsonObject, type JsonObject } from './json-file.js';
import { takeAlone } from './json-lines-file.js';
import { writeError } from './output-file.js';
import { PlaceSet, type Places } from './place-set.js';
import { replaceFile, writeAll } from './replace-file.js';

/** Bytes of a file, from `begin` up to `end`. */
export interface ByteRange {
  readonly begin: number;
  readonly end: number;
}

/** What a file of results holds. */
export interface FinishedLines {
  /** Places of the results, as `placeOf` gave them. */
  readonly places: Places;
  /** The file's size when it was read. */
  readonly fileBytes: number;
  /** Whole lines that hold results, in order. */
  readonly kept: readonly ByteRange[];
  /** Lines that hold none, or one that was there before. */
  readonly damaged: readonly ByteRange[];
  /** Length of a last line that was cut off while it was written. */
  readonly tornBytes: number;
}

export const NO_LINES: FinishedLines = {
  places: new PlaceSet(),
  fileBytes: 0,
  kept: [],
  damaged: [],
  tornBytes: 0,
};

/** How records look, and what is said of one that does not belong. */
export interface RecordReading {
  /** Every record begins with it as it is written. */
  readonly begins: string;
  readonly refuse: (problem: string) => Error;
}

const CHUNK_BYTES = 1 << 20;
const NEWLINE = 10;

/** Where lines go that cannot be read: whatever they were, nothing is thrown away. */
export function damagedPath(output: string): string {
  return `${output}.damaged`;
}

/**
 * Reads what is there, in pieces. A last line that is the beginning of a record was being written when the program
 * ended; other lines that are no records, or come twice, are damaged.
 * @param placeOf the place of a record's result among all; undefined where it is no whole one; or why it does not belong
 * Throws what `refuse` makes for a record that does not belong to this run.
 */
export function readFinished(
  results: string,
  { begins, refuse }: RecordReading,
  placeOf: (record: JsonObject) => number | undefined | string,
): FinishedLines {
  const beginning = Buffer.from(begins);
  if (!existsSync(results)) return NO_LINES;
  const places = new PlaceSet();
  const [kept, damaged]: [ByteRange[], ByteRange[]] = [[], []];
  let [begin, lineNumber, tornBytes] = [0, 0, 0];
  for (const { line, isWhole } of linesOf(results)) {
    lineNumber++;
    const end = begin + line.length + Number(isWhole);
    const record = isWhole ? parseRecord(line) : undefined;
    const place = record && placeOf(record);
    if (typeof place === 'string') {
      throw refuse(`line ${lineNumber} of ${results} ${place}: it is not what this run has written`);
    }
    if (place !== undefined && !places.has(place)) {
      places.add(place);
      extend(kept, { begin, end });
    } else if (isWhole ? isNothing(line) : isBeginning(line, beginning)) {
      // What follows it tells whether it is the last.
      tornBytes = line.length + Number(isWhole);
      begin = end;
      continue;
    } else {
      damaged.push({ begin, end });
    }
    tornBytes = 0;
    begin = end;
  }
  return { places, fileBytes: begin, kept, damaged, tornBytes };
}

/** Neighbours become one range: a million lines are no million ranges. */
function extend(ranges: ByteRange[], range: ByteRange): void {
  const last = ranges.at(-1);
  if (last?.end === range.begin) ranges[ranges.length - 1] = { begin: last.begin, end: range.end };
  else ranges.push(range);
}

/** Blocks that never reached the drive read as zeros; some editors leave empty lines. */
function isNothing(line: Buffer): boolean {
  return line.every((byte) => byte === 0 || byte === 13 || byte === 32);
}

/** Whether a line is the beginning of a record as this program writes it: what is left when writing ends early. */
function isBeginning(line: Buffer, beginning: Buffer): boolean {
  const common = Math.min(line.length, beginning.length);
  const begins = line.subarray(0, common).equals(beginning.subarray(0, common));
  // Within a text, quotes are escaped: these are records whose newlines were lost.
  return (begins && !line.includes(`}${beginning}`)) || isNothing(line);
}

export interface Line {
  readonly line: Buffer;
  /** It ends with a newline. */
  readonly isWhole: boolean;
}

/** Every line of a file, in pieces of its content. */
export function* linesOf(path: string): Generator<Line, void> {
  const file = openSync(path, 'r');
  try {
    let pieces: Buffer[] = [];
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const count = readSync(file, chunk);
      if (count === 0) break;
      let begin = 0;
      for (let end = chunk.indexOf(NEWLINE); end >= 0 && end < count; end = chunk.indexOf(NEWLINE, begin)) {
        yield { line: Buffer.concat([...pieces, chunk.subarray(begin, end)]), isWhole: true };
        pieces = [];
        begin = end + 1;
      }
      if (begin < count) pieces.push(chunk.subarray(begin, count));
    }
    if (pieces.length > 0) yield { line: Buffer.concat(pieces), isWhole: false };
  } finally {
    closeSync(file);
  }
}

/** Bytes that are no UTF-8 would become other characters without a word. */
export function parseRecord(line: Buffer): JsonObject | undefined {
  try {
    const value: unknown = isUtf8(line) ? JSON.parse(line.toString('utf8')) : undefined;
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The records of whole lines, one after the other. */
export function* recordsOf(results: string): Generator<JsonObject, void> {
  for (const { line, isWhole } of linesOf(results)) {
    const record = isWhole ? parseRecord(line) : undefined;
    if (record) yield record;
  }
}

/** What a file of results is to begin with, and how large it is now. */
export interface KeptBytes {
  readonly keptBytes: number;
  readonly fileBytes: number;
}

/**
 * Leaves the lines that are kept at the beginning of the file. Damaged ones go to a file of their own first.
 * Throws WRITE_FAILED, and the results are what they were.
 */
export function dropDamaged(
  results: string,
  { kept, damaged, fileBytes }: FinishedLines,
  option: string,
): KeptBytes {
  const keptBytes = kept.reduce((bytes, { begin, end }) => bytes + end - begin, 0);
  if (damaged.length === 0 && keptBytes === (kept[0]?.end ?? 0)) return { keptBytes, fileBytes };
  try {
    const source = openSync(results, 'r');
    try {
      takeAlone(source, results);
      const found = fstatSync(source, { bigint: true });
      if (Number(found.size) !== fileBytes) throw new Error('another program writes to it');
      if (damaged.length > 0)
        append(damagedPath(results), Number(found.mode & 0o777n), piecesOf(source, damaged));
      replaceFile(results, found, piecesOf(source, kept));
    } finally {
      closeSync(source);
    }
  } catch (error) {
    throw writeError(results, option, error);
  }
  return { keptBytes, fileBytes: keptBytes };
}

function append(path: string, mode: number, content: Iterable<Uint8Array>): void {
  const file = openSync(path, 'a', mode);
  try {
    for (const bytes of content) writeAll(file, bytes);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function* piecesOf(file: number, ranges: readonly ByteRange[]): Generator<Uint8Array, void> {
  for (const { begin, end } of ranges) {
    for (let at = begin; at < end; ) {
      const bytes = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, end - at));
      const count = readSync(file, bytes, 0, bytes.length, at);
      if (count === 0) throw new Error('it became shorter while it was read');
      at += count;
      yield bytes.subarray(0, count);
    }
  }
}
