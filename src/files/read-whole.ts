// Reads as many bytes as a file has to give: one call may bring fewer, and what is made of those, a hash say, is of others.

import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';

/** Fills `buffer` from `offset` on, as far as the file goes; how many bytes that was. */
export async function readWhole(file: FileHandle, buffer: Uint8Array, offset: number): Promise<number> {
  let done = 0;
  while (done < buffer.byteLength) {
    const { bytesRead } = await file.read(buffer, done, buffer.byteLength - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** The same at once, from a descriptor. Throws what the system says. */
export function readWholeSync(file: number, buffer: Uint8Array, offset: number): number {
  let done = 0;
  while (done < buffer.byteLength) {
    const bytesRead = readSync(file, buffer, done, buffer.byteLength - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
