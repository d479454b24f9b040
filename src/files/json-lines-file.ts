// A file that grows by JSON lines: each is written at once and whole, and by one run alone.

import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, statSync } from 'node:fs';
import { lockFile } from '../../offload/index.js';
import { STREAM, writeError } from './output-file.js';
import { outputTarget } from './output-target.js';
import { writeAll } from './replace-file.js';

/** Appending keeps each line whole where two write in spite of all checks. */
const LINES = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND;

const NEWLINE = Buffer.from('\n');

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
   * @param stream a pipe or a device that is open already
   */
  open(keptBytes = 0, expectedBytes?: number, stream?: number): void {
    try {
      const target = outputTarget(this.#path);
      this.#isOwn = target.kind !== 'descriptor';
      this.#file =
        target.kind === 'descriptor'
          ? target.descriptor
          : (stream ?? openSync(target.path, target.kind === 'file' ? LINES : STREAM));
      // The file that was opened may be another than the one that was there a moment ago.
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
    this.writeLine(Buffer.from(JSON.stringify(record)));
  }

  /** @param record as JSON, without a newline */
  writeLine(record: Buffer): void {
    if (this.#file === undefined) return;
    this.#refuseOthers(this.#file);
    const line = Buffer.concat([record, NEWLINE]);
    try {
      writeAll(this.#file, line);
      this.#writtenBytes += line.length;
    } catch (error) {
      this.#dropHalfLine();
      throw writeError(this.#path, this.#option, error);
    }
  }

  /** All that was written is on the drive, where the file is on one. */
  sync(): void {
    if (this.#file === undefined || !this.#hasSize) return;
    try {
      fsyncSync(this.#file);
    } catch (error) {
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
