// Files that a run writes: checked before the work begins, and never left half written.

import { accessSync, closeSync, constants, fstatSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { KiB, OperatingError } from '../../offload/index.js';
import { reason, systemCode } from './json-file.js';
import { type OutputTarget, outputTarget } from './output-target.js';
import { readWholeSync } from './read-whole.js';
import { replaceFile, writeAll } from './replace-file.js';

/** Something that the program writes whole, and how an earlier one is told from anything else. */
export interface WholeFile {
  /** What it is, with an article. */
  readonly what: string;
  /** Texts that are near the beginning of each such file of JSON. */
  readonly marks: readonly string[];
  /** The same where it is a page. */
  readonly pageMark?: string;
}

/** Stands near the beginning of every report that is a page. */
export const REPORT_MARK = '<meta name="generator" content="zero-inference report">';

export const REPORT: WholeFile = {
  what: 'a report',
  marks: ['"command":', '"model":'],
  pageMark: REPORT_MARK,
};
export const TRACE: WholeFile = { what: 'a trace', marks: ['"traceEvents":'] };
export const MACHINE: WholeFile = {
  what: 'the description of a machine',
  marks: ['"dram_bytes":', '"compute":'],
};
export const SETTINGS: WholeFile = {
  what: 'the settings of a run',
  marks: ['"prompts":', '"max_new_tokens":'],
};

/** Where `path` leads. Throws WRITE_FAILED when it cannot become or be a file that is written; changes nothing. */
export function checkWritable(path: string, option: string): OutputTarget {
  try {
    const target = outputTarget(path);
    if (target.kind === 'descriptor') fstatSync(target.descriptor);
    else if (target.found) accessSync(target.path, constants.W_OK);
    else accessSync(dirname(target.path), constants.W_OK);
    return target;
  } catch (error) {
    throw writeError(path, option, withFolder(error, path));
  }
}

function withFolder(error: unknown, path: string): unknown {
  const absent = error instanceof Error && 'syscall' in error && error.syscall === 'realpath';
  return absent ? `there is no folder ${dirname(path)}` : error;
}

/**
 * Throws BAD_OPTION where `target` holds anything but an earlier `whole`: a file named by mistake is seldom one that its
 * owner can do without.
 */
export function checkReplaceable(target: OutputTarget, option: string, whole: WholeFile): void {
  if (target.kind !== 'file' || !target.found || target.found.size === 0n) return;
  const beginning = beginningOf(target.path, option);
  if (beginning.trimStart().startsWith('{') && whole.marks.every((mark) => beginning.includes(mark))) return;
  if (whole.pageMark !== undefined && beginning.includes(whole.pageMark)) return;
  throw notReplaceable(target.path, option, whole);
}

/** The error for an output that would replace what is something else than `whole`. */
export function notReplaceable(path: string, option: string, { what }: WholeFile): OperatingError {
  return new OperatingError(
    'BAD_OPTION',
    `${option}: ${path} is there and is not ${what}: give another path, or remove it`,
  );
}

const BEGINNING_BYTES = 64 * KiB;

function beginningOf(path: string, option: string): string {
  try {
    const file = openSync(path, 'r');
    try {
      const bytes = Buffer.alloc(BEGINNING_BYTES);
      return bytes.toString('utf8', 0, readWholeSync(file, bytes, 0));
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw writeError(path, option, error);
  }
}

/** The whole text or, after an error, what was there before. */
export function writeWhole(path: string, text: string, option: string): void {
  try {
    const target = outputTarget(path);
    const bytes = Buffer.from(text);
    if (target.kind === 'file') {
      replaceFile(target.path, target.found, [bytes]);
      return;
    }
    const file = target.kind === 'descriptor' ? target.descriptor : openSync(target.path, STREAM);
    try {
      writeAll(file, bytes);
    } finally {
      if (target.kind === 'stream') closeSync(file);
    }
  } catch (error) {
    throw writeError(path, option, error);
  }
}

export const STREAM = constants.O_WRONLY | constants.O_APPEND | constants.O_NOCTTY;
const WAIT_FOR_READER_MS = 50;

/**
 * Opens a pipe or a device. Opening a pipe that nobody reads would block the thread, and no signal could end the program:
 * it is asked again and again instead. Rejects with the signal's reason, or WRITE_FAILED.
 */
export async function openStream(path: string, option: string, signal: AbortSignal): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    try {
      return openSync(path, STREAM | constants.O_NONBLOCK);
    } catch (error) {
      if (systemCode(error) !== 'ENXIO' || !isPipe(path)) throw writeError(path, option, error);
    }
    // An interruption ends the wait; what it says is thrown above.
    await setTimeout(WAIT_FOR_READER_MS, undefined, { signal }).catch(() => undefined);
  }
}

function isPipe(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFIFO() ?? false;
}

/** The same as `writeWhole`, to a pipe or a device as well. */
export async function writeWherever(
  path: string,
  text: string,
  option: string,
  signal: AbortSignal,
): Promise<void> {
  if (outputTarget(path).kind !== 'stream') {
    writeWhole(path, text, option);
    return;
  }
  const file = await openStream(path, option, signal);
  try {
    writeAll(file, Buffer.from(text));
  } catch (error) {
    throw writeError(path, option, error);
  } finally {
    closeSync(file);
  }
}

/** The error for an output that the system did not write. */
export function writeError(path: string, option: string, error: unknown): OperatingError {
  return new OperatingError('WRITE_FAILED', `${option}: ${path} cannot be written: ${reason(error)}`, {
    cause: error,
  });
}
