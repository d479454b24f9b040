// The parts of one striped file while they are compared or written, each on its drive and all drives at once.

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { partBytes, present, type StripedFile, type StripeRun, stripeRuns } from '../../offload/index.js';
import { writeFully } from './copy.js';
import { writeFailure } from './manifest.js';

export class StripeParts {
  readonly #file: StripedFile;
  /** By drive; undefined for those that have nothing of their own. */
  readonly #handles: readonly (FileHandle | undefined)[];

  private constructor(file: StripedFile, handles: readonly (FileHandle | undefined)[]) {
    this.#file = file;
    this.#handles = handles;
  }

  /**
   * @param drives whose parts are meant; the others' are left alone
   * @param flags as for opening a file: to read, or to write as well
   * Errors: NO_SPACE, WRITE_FAILED.
   */
  static async open(file: StripedFile, drives: ReadonlySet<number>, flags: number): Promise<StripeParts> {
    const handles: (FileHandle | undefined)[] = [];
    try {
      for (const [drive, { path }] of file.parts.entries()) {
        handles.push(drives.has(drive) ? await opened(path, flags) : undefined);
      }
    } catch (error) {
      await Promise.all(handles.map((handle) => handle?.close()));
      throw error;
    }
    return new StripeParts(file, handles);
  }

  /** Whether all these parts have the bytes that begin there in the whole. */
  async hold(bytes: Buffer, offset: number): Promise<boolean> {
    const there = Buffer.allocUnsafe(bytes.byteLength);
    const all = await this.#onEach(bytes.byteLength, offset, async (handle, run) => {
      const [from, to] = [run.offsetBytes, run.offsetBytes + run.sizeBytes];
      for (let done = from; done < to; ) {
        const { bytesRead } = await handle.read(there, done, to - done, run.partOffset + done - from);
        if (bytesRead === 0) return false;
        done += bytesRead;
      }
      return there.subarray(from, to).equals(bytes.subarray(from, to));
    });
    return all.every((isEqual) => isEqual);
  }

  async write(bytes: Buffer, offset: number): Promise<void> {
    await this.#onEach(bytes.byteLength, offset, async (handle, run) => {
      const end = run.offsetBytes + run.sizeBytes;
      await writeFully(handle, bytes.subarray(run.offsetBytes, end), run.partOffset);
      return true;
    });
  }

  /** What is of the whole from there on goes. */
  async cut(offset: number): Promise<void> {
    await this.#forEach((handle, drive) => handle.truncate(partBytes(this.#file.stripes, drive, offset)));
  }

  sync(): Promise<void> {
    return this.#forEach((handle) => handle.datasync());
  }

  async close(): Promise<void> {
    await Promise.all(this.#handles.map((handle) => handle?.close()));
  }

  /** Drives at once, the runs of each in order. Settles when nothing touches the bytes any more. */
  async #onEach(
    sizeBytes: number,
    offset: number,
    work: (handle: FileHandle, run: StripeRun) => Promise<boolean>,
  ): Promise<boolean[]> {
    const runs = stripeRuns(this.#file, offset, sizeBytes);
    const results: boolean[] = [];
    await this.#forEach(async (handle, drive) => {
      for (const run of runs) if (run.drive === drive) results.push(await work(handle, run));
    });
    return results;
  }

  async #forEach(work: (handle: FileHandle, drive: number) => Promise<unknown>): Promise<void> {
    const ended = await Promise.allSettled(
      this.#handles.map(async (handle, drive) => {
        if (!handle) return;
        await work(handle, drive).catch((error: unknown) => {
          throw writeFailure(present(this.#file.parts[drive], 'part').path, error);
        });
      }),
    );
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
  }
}

/** To read and write, going on with what is there. */
export const GOING_ON = constants.O_RDWR | constants.O_CREAT;

async function opened(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, flags, 0o644);
  } catch (error) {
    throw writeFailure(path, error);
  }
}
