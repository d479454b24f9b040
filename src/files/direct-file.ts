// Writes one large file from front to back past the page cache, so that writing weights evicts nobody's data.

import { constants } from 'node:fs';
import { type FileHandle, open, truncate } from 'node:fs/promises';

// Node has it; the type libraries for programs without a browser do not.
declare namespace WebAssembly {
  class Memory {
    constructor(limits: { readonly initial: number; readonly maximum: number });
    readonly buffer: ArrayBuffer;
  }
}

/** Offsets, sizes and addresses of direct writes must be multiples of this on every drive we know. */
export const ALIGNMENT_BYTES = 4096;
const WASM_PAGE_BYTES = 64 * 1024;
const FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC;

/** File systems without direct writes (tmpfs, some network drives) say EINVAL, on opening or on the first write. */
function refusesDirect(error: unknown): boolean {
  return (
    error instanceof Error && 'code' in error && (error.code === 'EINVAL' || error.code === 'EOPNOTSUPP')
  );
}

/** A staging buffer that several files may use one after the other. WebAssembly memory, because it is page-aligned. */
export function stagingBuffer(sizeBytes: number): Uint8Array {
  const pages = Math.ceil(sizeBytes / WASM_PAGE_BYTES);
  return new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer);
}

/** A file that is being written from front to back; `finish` or `abandon` it in any case. */
export class DirectFile {
  private stagedBytes = 0;
  private writtenBytes = 0;

  private constructor(
    private readonly path: string,
    private file: FileHandle,
    private direct: boolean,
    private readonly staging: Uint8Array,
  ) {}

  /** Creates the file, or empties it. `staging` comes from `stagingBuffer`. */
  static async create(path: string, staging: Uint8Array): Promise<DirectFile> {
    try {
      return new DirectFile(path, await open(path, FLAGS | constants.O_DIRECT), true, staging);
    } catch (error) {
      if (!refusesDirect(error)) throw error;
      return new DirectFile(path, await open(path, FLAGS), false, staging);
    }
  }

  /** Bytes appended so far. */
  get sizeBytes(): number {
    return this.writtenBytes + this.stagedBytes;
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let taken = 0; taken < bytes.length; ) {
      const count = Math.min(bytes.length - taken, this.staging.length - this.stagedBytes);
      this.staging.set(bytes.subarray(taken, taken + count), this.stagedBytes);
      this.stagedBytes += count;
      taken += count;
      if (this.stagedBytes === this.staging.length) await this.flush();
    }
  }

  /** Writes what is staged, makes the file durable, and closes it. */
  async finish(): Promise<void> {
    const sizeBytes = this.sizeBytes;
    await this.flush();
    // The last direct write was padded.
    if (this.writtenBytes !== sizeBytes) await truncate(this.path, sizeBytes);
    await this.file.datasync();
    await this.file.close();
  }

  /** Closes the file as it is. */
  async abandon(): Promise<void> {
    await this.file.close();
  }

  private async flush(): Promise<void> {
    const padded = Math.ceil(this.stagedBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    const endBytes = this.direct ? padded : this.stagedBytes;
    this.staging.fill(0, this.stagedBytes, endBytes);
    for (let done = 0; done < endBytes; ) {
      try {
        const { bytesWritten } = await this.file.write(
          this.staging,
          done,
          endBytes - done,
          this.writtenBytes + done,
        );
        done += bytesWritten;
      } catch (error) {
        if (!this.direct || !refusesDirect(error)) throw error;
        await this.becomeBuffered();
      }
    }
    this.writtenBytes += endBytes;
    this.stagedBytes = 0;
  }

  /** Also the way on after a short direct write, whose rest is not aligned. */
  private async becomeBuffered(): Promise<void> {
    await this.file.close();
    this.file = await open(this.path, constants.O_WRONLY);
    this.direct = false;
  }
}
