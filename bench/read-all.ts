// Every byte of some files by the read engine alone, pieces ahead: the limit of what reads them for a purpose.

import { NativeHost, present } from '../offload/index.js';

/** @param pieceBytes a multiple of 4 KiB; `pieces` of them are on their way at once */
export async function readAll(
  paths: readonly string[],
  { pieceBytes, pieces }: { readonly pieceBytes: number; readonly pieces: number },
): Promise<void> {
  const host = new NativeHost();
  try {
    const memories = Array.from({ length: pieces }, () => host.allocate(pieceBytes, 'stream'));
    const reads: Promise<unknown>[] = [];
    for (const file of paths.map((path) => host.openFile(path))) {
      for (let fileOffset = 0; fileOffset < file.sizeBytes; fileOffset += pieceBytes) {
        await reads[reads.length - pieces];
        const memory = present(memories[reads.length % pieces], 'memory');
        const requiredBytes = Math.min(pieceBytes, file.sizeBytes - fileOffset);
        const request = { file, fileOffset, sizeBytes: pieceBytes, requiredBytes, memoryOffset: 0 };
        reads.push(host.read([request], memory));
      }
    }
    await Promise.all(reads);
  } finally {
    await host.close();
  }
}
