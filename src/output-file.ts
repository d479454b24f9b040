// Files that a run writes: checked before the work begins, and never left half written.

import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  statSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { KiB, lockFile, OperatingError } from '../offload/index.js';
import { reason } from './json-file.js';
import { type OutputTarget, outputTarget } from './output-target.js';
import { replaceFile, writeAll } from './replace-file.js';

/** Something that the program writes whole, and how an earlier one is told from anything else. */
export interface WholeFile {
  /** With an article. */
  readonly what: string;
  /** All of them are near the beginning of each. */
  readonly marks: readonly string[];
}

export const REPORT: WholeFile = { what: 'a report', marks: ['"command":', '"model":'] };
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
  throw new OperatingError(
    'BAD_OPTION',
    `${option}: ${target.path} is there and is not ${whole.what}: give another path, or remove it`,
  );
}

const BEGINNING_BYTES = 64 * KiB;

function beginningOf(path: string, option: string): string {
  try {
    const file = openSync(path, 'r');
    try {
      const bytes = Buffer.alloc(BEGINNING_BYTES);
      return bytes.toString('utf8', 0, readSync(file, bytes));
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

const STREAM = constants.O_WRONLY | constants.O_APPEND | constants.O_NOCTTY;
/** Where two write in spite of all checks, each line stays whole. */
const LINES = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND;

/** JSON lines that go where something else writes. */
export class JsonLines {
  readonly #write: (text: string) => void;

  constructor(write: (text: string) => void) {
    this.#write = write;
  }

  write(record: Readonly<Record<string, unknown>>): void {
    this.#write(`${JSON.stringify(record)}\n`);
  }

  close(): void {}
}

/** A file of JSON lines, each written at once, so that it is valid whenever the program ends. */
export class JsonLinesFile implements Pick<JsonLines, 'write' | 'close'> {
  readonly #path: string;
  readonly #option: string;
  #file: number | undefined;
  /** Descriptors of the process are not ours to close. */
  #isOwn = true;
  /** Devices and pipes have no size. */
  #hasSize = false;
  #writtenBytes = 0;

  constructor(path: string, option: string) {
    this.#path = path;
    this.#option = option;
  }

  /**
   * Makes the file, or keeps that many bytes of what it holds: whole lines, after which it goes on.
   * @param expectedBytes its size when it was looked at: another one means another run; undefined: whatever it holds may go
   */
  open(keptBytes = 0, expectedBytes?: number): void {
    try {
      const target = outputTarget(this.#path);
      this.#isOwn = target.kind !== 'descriptor';
      this.#file =
        target.kind === 'descriptor'
          ? target.descriptor
          : openSync(target.path, target.kind === 'file' ? LINES : STREAM);
      // What was opened, which may be another than what was there a moment ago.
      this.#hasSize = target.kind === 'file' && fstatSync(this.#file).isFile();
      if (target.kind === 'file' && this.#hasSize) {
        takeAlone(this.#file, target.path);
        const { size } = fstatSync(this.#file);
        if (expectedBytes !== undefined && size !== expectedBytes) {
          throw new Error('another program has written to it since this run began');
        }
        if (size !== keptBytes) ftruncateSync(this.#file, keptBytes);
      }
      this.#writtenBytes = keptBytes;
    } catch (error) {
      this.#abandon();
      throw writeError(this.#path, this.#option, error);
    }
  }

  #abandon(): void {
    if (this.#file !== undefined && this.#isOwn) closeSync(this.#file);
    this.#file = undefined;
  }

  write(record: Readonly<Record<string, unknown>>): void {
    if (this.#file === undefined) return;
    this.#refuseOthers(this.#file);
    const line = Buffer.from(`${JSON.stringify(record)}\n`);
    try {
      writeAll(this.#file, line);
      this.#writtenBytes += line.length;
    } catch (error) {
      this.#dropHalfLine();
      throw writeError(this.#path, this.#option, error);
    }
  }

  /** Some file systems tell only now that there was no space. */
  close(): void {
    const file = this.#file;
    this.#file = undefined;
    if (file === undefined || !this.#isOwn) return;
    try {
      try {
        if (this.#hasSize) fsyncSync(file);
      } finally {
        closeSync(file);
      }
    } catch (error) {
      throw writeError(this.#path, this.#option, error);
    }
  }

  /** Two runs that write the same results would have texts twice. */
  #refuseOthers(file: number): void {
    if (!this.#hasSize || fstatSync(file).size === this.#writtenBytes) return;
    throw writeError(this.#path, this.#option, 'another program writes to it');
  }

  #dropHalfLine(): void {
    try {
      if (this.#hasSize) ftruncateSync(this.#file ?? -1, this.#writtenBytes);
    } catch {
      // The error that is thrown says what happened.
    }
  }
}

/**
 * Until the descriptor is closed or the process ends, no other run writes to these results. Throws where one does.
 * @param path where the file has to be still: another run may have replaced it since it was opened
 */
export function takeAlone(file: number, path: string): void {
  if (!lockedOrWithoutLocks(file)) throw new Error('another run is writing to it');
  const [ours, there] = [fstatSync(file, { bigint: true }), statSync(path, { bigint: true })];
  if (ours.ino !== there.ino || ours.dev !== there.dev) throw new Error('another run has just replaced it');
}

/** Throws WRITE_FAILED where another run has the file for itself at the moment. */
export function checkNobodyWrites(path: string, option: string): void {
  try {
    const file = openSync(path, 'r');
    try {
      takeAlone(file, path);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw writeError(path, option, error);
  }
}

/** Sizes are compared at every line as well, so a file system without locks is no reason to stop. */
function lockedOrWithoutLocks(file: number): boolean {
  try {
    return lockFile(file);
  } catch {
    return true;
  }
}

export function writeError(path: string, option: string, error: unknown): OperatingError {
  return new OperatingError('WRITE_FAILED', `${option}: ${path} cannot be written: ${reason(error)}`, {
    cause: error,
  });
}
