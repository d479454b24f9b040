// Copies one file to its parts on several drives so that a killed copy can go on, and compares parts with the file.

import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { present, type StripedFile } from '../../offload/index.js';
import { changed, chunksOf, openSource, SYNC_BYTES, type Work } from './copy.js';
import { type SourceState, sameState, sourceState, syncFolder, writeFailure } from './manifest.js';
import { GOING_ON, StripeParts } from './stripe-parts.js';

/** Digest of the source, in hex, where the drives' parts have its content; undefined where they have not. */
export async function compareParts(
  source: SourceState,
  file: StripedFile,
  drives: ReadonlySet<number>,
  { signal, onBytes }: Work,
): Promise<string | undefined> {
  const from = await openSource(source);
  try {
    const parts = await StripeParts.open(file, drives, constants.O_RDONLY);
    try {
      const hash = createHash('sha256');
      for await (const { bytes, offset } of chunksOf(from, source, 0, signal)) {
        if (!(await parts.hold(bytes, offset))) return undefined;
        hash.update(bytes);
        onBytes(bytes.byteLength);
      }
      await checkUnchanged(source, 'changed while it was compared');
      return hash.digest('hex');
    } finally {
      await parts.close();
    }
  } finally {
    await from.close();
  }
}

/** Writes the drives' parts by way of `.partial` files, going on from those that are there. Returns the source's digest. */
export async function copyParts(
  source: SourceState,
  file: StripedFile,
  drives: ReadonlySet<number>,
  { signal, onBytes }: Work,
): Promise<string> {
  const partial: StripedFile = {
    ...file,
    parts: file.parts.map((part) => ({ ...part, path: `${part.path}.partial` })),
  };
  const from = await openSource(source);
  try {
    const parts = await StripeParts.open(partial, drives, GOING_ON);
    const hash = createHash('sha256');
    try {
      let isWriting = false;
      let unsyncedBytes = 0;
      for await (const { bytes, offset } of chunksOf(from, source, 0, signal)) {
        // What an earlier attempt left is not taken on trust.
        if (!isWriting && !(await parts.hold(bytes, offset))) {
          await parts.cut(offset);
          isWriting = true;
        }
        const writing = isWriting ? parts.write(bytes, offset) : undefined;
        hash.update(bytes);
        await writing;
        onBytes(bytes.byteLength);
        unsyncedBytes += isWriting ? bytes.byteLength : 0;
        if (unsyncedBytes < SYNC_BYTES) continue;
        await parts.sync();
        unsyncedBytes = 0;
      }
      await parts.cut(source.sizeBytes);
      await parts.sync();
    } finally {
      await parts.close();
    }
    // What was hashed must be what the record will name.
    await checkUnchanged(source, 'changed while it was copied');
    for (const drive of drives) await finish(present(file.parts[drive], 'part').path);
    return hash.digest('hex');
  } finally {
    await from.close();
  }
}

async function finish(path: string): Promise<void> {
  try {
    await rename(`${path}.partial`, path);
    await syncFolder(dirname(path));
  } catch (error) {
    throw writeFailure(path, error);
  }
}

async function checkUnchanged(source: SourceState, what: string): Promise<void> {
  if (!sameState(source, await sourceState(source.path))) throw changed(source, what);
}
