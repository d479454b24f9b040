// Downloads one file into the cache: resumes what an earlier process left, checks length and checksum, and only then
// gives the blob its name.
//
// Processes need no lock between them. Bytes are written at their own offsets, and every writer of a partial file
// writes the same bytes, each beginning at or before the end of what is there: so whatever the file's length, its
// bytes up to there are valid, whoever was killed. That two download the same file is only a waste, which is avoided
// by watching whether somebody else's partial file grows.

import { createHash, type Hash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { systemCode } from '../files/json-file.js';
import { writeFailure } from '../staging/manifest.js';
import type { FileMetadata, HubClient } from './client.js';
import { stopIfAborted, Transient, withRetries } from './retry.js';

export interface BlobRequest {
  readonly client: HubClient;
  readonly commit: string;
  readonly fileName: string;
  readonly metadata: FileMetadata;
  readonly blobPath: string;
  /** Bytes that are there; may go back when a part turns out to be wrong. */
  readonly onProgress: (doneBytes: number) => void;
}

/** The name Python's client gives; it resumes our files, and we its. */
export function partialPath(blobPath: string): string {
  return `${blobPath}.incomplete`;
}

/** In bytes; undefined where there is no such file, or it cannot be looked at. */
export async function sizeOf(path: string): Promise<number | undefined> {
  return (await ifThere(path, stat(path)))?.size;
}

const LOOK_MS = 1000;
/** A partial file that does not grow for so long has no writer. */
const QUIET_LOOKS = 5;
/** A partial file that was not written to for so long needs no watching. */
const QUIET_MS = 30_000;
const HASH_CHUNK_BYTES = 1024 * 1024;

/** Errors: DOWNLOAD_FAILED, NO_SPACE, WRITE_FAILED, NO_ACCESS, NOT_FOUND, and what the client's signal brings. */
export async function downloadBlob(request: BlobRequest): Promise<void> {
  const { blobPath, metadata } = request;
  const isThere = async () => (await sizeOf(blobPath)) === metadata.sizeBytes;
  if (!(await isThere()) && !(await waitForOther(request, isThere))) {
    const path = partialPath(blobPath);
    const partial = new Partial(request, path, await openPartial(path));
    try {
      // Another process may have finished between our look and our opening: then this file is a new, empty one.
      if (await isThere()) await rm(path, { force: true });
      else {
        await partial.takeOver();
        await partial.fill();
      }
    } finally {
      await partial.close();
    }
  }
  request.onProgress(metadata.sizeBytes);
}

/** While another process writes the partial file, waits; true when it finished the blob. */
async function waitForOther(
  { client, blobPath, onProgress }: BlobRequest,
  isThere: () => Promise<boolean>,
): Promise<boolean> {
  const path = partialPath(blobPath);
  let before = await ifThere(path, stat(path));
  if (!before || Date.now() - before.mtimeMs > QUIET_MS) return false;
  for (let quiet = 0; quiet < QUIET_LOOKS; quiet++) {
    await client.retries.pause(LOOK_MS, client.signal).catch(() => stopIfAborted(client.signal));
    if (await isThere()) return true;
    const now = await ifThere(path, stat(path));
    if (!now) return false;
    if (now.size !== before.size || now.ino !== before.ino) quiet = -1;
    onProgress(now.size);
    before = now;
  }
  return false;
}

/** The partial file, and the checksum of what is in it. */
class Partial {
  #hash: Hash = createHash('sha256');
  #doneBytes = 0;

  constructor(
    private readonly request: BlobRequest,
    private readonly path: string,
    private file: FileHandle,
  ) {}

  async close(): Promise<void> {
    await this.file.close();
  }

  /** Downloads what is missing, checks it, and gives the file its name. A wrong checksum is given one more chance. */
  async fill(): Promise<void> {
    const { client, fileName, metadata } = this.request;
    for (let chance = 1; ; chance++) {
      await withRetries(() => this.#receive(), {
        what: fileName,
        policy: client.retries,
        signal: client.signal,
        progress: () => this.#doneBytes,
      });
      const sha256 = this.#hash.digest('hex');
      if (metadata.sha256 === undefined || sha256 === metadata.sha256) return this.#finish();
      await this.#restart();
      if (chance === 2) {
        throw new OperatingError(
          'DOWNLOAD_FAILED',
          `${fileName} was downloaded twice and has another checksum than the hub says (sha256 ${sha256}, ` +
            `not ${metadata.sha256}): a proxy or the drive may be damaging data`,
        );
      }
    }
  }

  /** What an earlier process left counts, and must go through the checksum again. */
  async takeOver(): Promise<void> {
    const { metadata, onProgress, client } = this.request;
    const { size } = await this.file.stat();
    if (size > metadata.sizeBytes) return this.#restart();
    const chunk = Buffer.allocUnsafe(HASH_CHUNK_BYTES);
    while (this.#doneBytes < size) {
      stopIfAborted(client.signal);
      const count = Math.min(chunk.length, size - this.#doneBytes);
      const { bytesRead } = await this.file.read(chunk, 0, count, this.#doneBytes);
      if (bytesRead === 0) break;
      this.#hash.update(chunk.subarray(0, bytesRead));
      this.#doneBytes += bytesRead;
    }
    onProgress(this.#doneBytes);
  }

  /** One answer of the server, which may end early. */
  async #receive(): Promise<void> {
    const { client, commit, fileName, metadata, onProgress } = this.request;
    const { sizeBytes } = metadata;
    if (this.#doneBytes === sizeBytes) return;
    const { begin, answer } = await client.open(commit, fileName, this.#doneBytes);
    try {
      if (begin < this.#doneBytes) this.#rewind();
      for (let part = await answer.read(); part; part = await answer.read()) {
        if (this.#doneBytes + part.length > sizeBytes) {
          this.#rewind();
          throw new Transient(`the server sent more than the ${sizeBytes} bytes it had announced`);
        }
        await this.#append(part);
        onProgress(this.#doneBytes);
      }
    } finally {
      await answer.close();
    }
    if (this.#doneBytes < sizeBytes) {
      throw new Transient(
        `the server ended after ${this.#doneBytes} of the ${sizeBytes} bytes it had announced`,
      );
    }
  }

  async #append(part: Uint8Array): Promise<void> {
    this.#hash.update(part);
    for (let written = 0; written < part.length; ) {
      const { bytesWritten } = await this.file
        .write(part, written, part.length - written, this.#doneBytes)
        .catch((error: unknown) => {
          throw writeFailure(this.path, error);
        });
      written += bytesWritten;
      this.#doneBytes += bytesWritten;
    }
  }

  /** Begins at the first byte again, in the same file: what is there is overwritten by the same bytes. */
  #rewind(): void {
    this.#hash = createHash('sha256');
    this.#doneBytes = 0;
  }

  /** Begins again in a new file: another process may still be reading or writing the old one. */
  async #restart(): Promise<void> {
    await this.file.close();
    await rm(this.path, { force: true });
    this.file = await openPartial(this.path);
    this.#rewind();
    this.request.onProgress(0);
  }

  async #finish(): Promise<void> {
    const { blobPath, metadata } = this.request;
    try {
      await this.file.datasync();
      const { size, ino } = await this.file.stat();
      if (size === metadata.sizeBytes && (await giveName(this.path, ino, blobPath))) return;
    } catch (error) {
      throw writeFailure(this.path, error);
    }
    // Another process may have given the file its name first.
    if ((await sizeOf(blobPath)) === metadata.sizeBytes) return;
    throw new OperatingError(
      'DOWNLOAD_FAILED',
      `${this.path} was changed by another process while it was downloaded: run the command again`,
    );
  }
}

/**
 * Names the file with number `inode`, which was last seen at `path`, `target`. A plain rename would take whatever is
 * at `path` by now, so the file gets a name that nobody else knows first. False when it is no longer there.
 */
async function giveName(path: string, inode: number, target: string): Promise<boolean> {
  const own = `${path}.${randomUUID()}`;
  try {
    await link(path, own);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    // A file system without hard links: there is only the plain way.
    if ((await stat(path)).ino !== inode) return false;
    await rename(path, target);
    return true;
  }
  const mine = (await stat(own)).ino === inode;
  if (mine) {
    await rename(own, target);
    await rm(path, { force: true });
  } else await rm(own, { force: true });
  return mine;
}

async function openPartial(path: string): Promise<FileHandle> {
  try {
    await mkdir(dirname(path), { recursive: true });
    return await open(path, constants.O_RDWR | constants.O_CREAT, 0o644);
  } catch (error) {
    throw writeFailure(path, error);
  }
}
