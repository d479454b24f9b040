// The folder that a server keeps its files and batches in: one process at a time, small records replaced in one step.

import { closeSync, openSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { OperatingError } from '../../offload/index.js';
import { reason, systemCode } from '../files/json-file.js';
import { takeAlone } from '../files/json-lines-file.js';
import { makeFolder } from '../files/make-folder.js';
import { writeWhole } from '../files/output-file.js';

/** How messages call what is written here. */
export const STORE = '--data';

export class StoreFolder {
  readonly path: string;
  #lock: number | undefined;

  private constructor(path: string, lock: number) {
    this.path = path;
    this.#lock = lock;
  }

  /** Throws WRITE_FAILED where it cannot be made, or where another process has it. */
  static async open(path: string): Promise<StoreFolder> {
    await makeFolders(path);
    const name = join(path, 'lock');
    try {
      const lock = openSync(name, 'a');
      try {
        takeAlone(lock, name);
      } catch (error) {
        closeSync(lock);
        throw error;
      }
      clearRemains(path);
      return new StoreFolder(path, lock);
    } catch (error) {
      const inUse = error instanceof Error && error.message.includes('another run');
      const why = inUse ? 'another server uses it: give each its own' : `it cannot be used: ${reason(error)}`;
      throw new OperatingError('WRITE_FAILED', `${STORE}: ${path}: ${why}`, { cause: error });
    }
  }

  /** Until then no other process may open it. May be called twice. */
  close(): void {
    if (this.#lock !== undefined) closeSync(this.#lock);
    this.#lock = undefined;
  }

  /** Names in a folder of the store. Throws READ_FAILED. */
  list(folder: string): string[] {
    try {
      return readdirSync(join(this.path, folder)).filter((name) => !name.startsWith('.'));
    } catch (error) {
      throw damaged(join(this.path, folder), reason(error), error);
    }
  }

  /** Undefined where there is none. Throws READ_FAILED where it is not what this program has written. */
  read<T>(name: string, schema: z.ZodType<T>): T | undefined {
    const path = join(this.path, name);
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw damaged(path, reason(error), error);
    }
    try {
      return schema.parse(JSON.parse(text));
    } catch (error) {
      throw damaged(path, 'it is not what this program has written', error);
    }
  }

  /** The new record or, after WRITE_FAILED, the old one. */
  write(name: string, record: object): void {
    writeWhole(join(this.path, name), `${JSON.stringify(record, undefined, 2)}\n`, STORE);
  }
}

async function makeFolders(path: string): Promise<void> {
  try {
    for (const folder of ['files', 'batches']) await makeFolder(join(path, folder));
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    throw new OperatingError(error.code, `${STORE}: ${error.message}`, { cause: error });
  }
}

export function damaged(path: string, why: string, cause?: unknown): OperatingError {
  return new OperatingError(
    'READ_FAILED',
    `${STORE}: ${path} is damaged (${why}): move it away, and what else is there goes on`,
    { cause },
  );
}

/** What was on its way when the process before this one ended: half a file, or a batch that has no record yet. */
function clearRemains(path: string): void {
  removePartial(join(path, 'files'));
  for (const entry of readdirSync(join(path, 'batches'), { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const folder = join(path, 'batches', entry.name);
    removePartial(folder);
    if (readdirSync(folder).length === 0) rmdirSync(folder);
  }
}

function removePartial(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (name.endsWith('.partial')) rmSync(join(folder, name), { force: true });
  }
}
