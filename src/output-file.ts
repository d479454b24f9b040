// Files that a run writes: checked before the work begins, and never left half written.

import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { reason } from './json-file.js';

/** Throws WRITE_FAILED when `path` cannot become or be a file; changes nothing. */
export function checkWritable(path: string, option: string): void {
  try {
    const existing = statSync(path, { throwIfNoEntry: false });
    if (existing?.isDirectory()) throw new Error('it is a folder');
    if (!existing && !statSync(dirname(resolve(path)), { throwIfNoEntry: false })?.isDirectory()) {
      throw new Error(`there is no folder ${dirname(resolve(path))}`);
    }
    accessSync(existing ? path : dirname(resolve(path)), constants.W_OK);
  } catch (error) {
    throw writeError(path, option, error);
  }
}

/** The whole text or, after an error, what was there before. */
export function writeWhole(path: string, text: string, option: string): void {
  const existing = statSync(path, { throwIfNoEntry: false });
  // Pipes and devices are written as they are: renaming would replace them.
  const target = existing && !existing.isFile() ? path : `${path}.partial`;
  try {
    writeFileSync(target, text);
    if (target !== path) renameSync(target, path);
  } catch (error) {
    if (target !== path) rmSync(target, { force: true });
    throw writeError(path, option, error);
  }
}

/** A file of JSON lines, each written at once, so that it is valid whenever the program ends. */
export class JsonLinesFile {
  readonly #path: string;
  readonly #option: string;
  #file: number | undefined;
  /** Devices and pipes have no size. */
  #hasSize = false;
  #writtenBytes = 0;

  constructor(path: string, option: string) {
    this.#path = path;
    this.#option = option;
  }

  /** Makes the file, or keeps that many bytes of what it holds: whole lines, after which it goes on. */
  open(keptBytes = 0): void {
    try {
      this.#file = openSync(this.#path, keptBytes === 0 ? 'w' : 'a');
      if (keptBytes > 0) ftruncateSync(this.#file, keptBytes);
      this.#hasSize = fstatSync(this.#file).isFile();
      this.#writtenBytes = keptBytes;
    } catch (error) {
      throw writeError(this.#path, this.#option, error);
    }
  }

  write(record: Readonly<Record<string, unknown>>): void {
    if (this.#file === undefined) return;
    this.#refuseOthers(this.#file);
    const line = Buffer.from(`${JSON.stringify(record)}\n`);
    try {
      for (let done = 0; done < line.length; ) done += writeSync(this.#file, line, done);
      this.#writtenBytes += line.length;
    } catch (error) {
      this.#dropHalfLine();
      throw writeError(this.#path, this.#option, error);
    }
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  /** Two runs that write the same results would have texts twice. */
  #refuseOthers(file: number): void {
    if (!this.#hasSize || fstatSync(file).size === this.#writtenBytes) return;
    throw writeError(this.#path, this.#option, 'another program writes to it');
  }

  #dropHalfLine(): void {
    try {
      ftruncateSync(this.#file ?? -1, this.#writtenBytes);
    } catch {
      // Devices and pipes cannot be cut; the error that is thrown says what happened.
    }
  }
}

function writeError(path: string, option: string, error: unknown): OperatingError {
  return new OperatingError('WRITE_FAILED', `${option}: ${path} cannot be written: ${reason(error)}`, {
    cause: error,
  });
}
