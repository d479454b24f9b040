// The name of a copy of weights: from little of their content, so that it is known before they are read.

import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { KiB, OperatingError } from '../../offload/index.js';
import { readSafetensorsHeader } from '../checkpoint/safetensors.js';
import { reason } from '../files/json-file.js';
import { readWhole } from '../files/read-whole.js';

const SAMPLE_BYTES = 4 * KiB;

/**
 * Names the copy: from file names, sizes, headers, and 4 KiB from the middle of each file, since a fine-tuned model
 * has the names, sizes and headers of its base. Were two models to agree in all that, they would take turns in one
 * folder, each copied again; the manifest's hashes decide what is used.
 */
export async function contentId(files: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of files) {
    const { sizeBytes, dataOffset } = await headerOf(path);
    hash.update(`${basename(path)}\0${sizeBytes}\0`);
    const file = await open(path, 'r');
    try {
      const header = Buffer.alloc(dataOffset);
      await readWhole(file, header, 0);
      hash.update(header);
      const middle = dataOffset + Math.floor((sizeBytes - dataOffset) / 2);
      const sample = Buffer.alloc(SAMPLE_BYTES);
      await readWhole(file, sample, middle);
      hash.update(sample);
    } catch (error) {
      throw new OperatingError('READ_FAILED', `${path} cannot be read: ${reason(error)}`, { cause: error });
    } finally {
      await file.close();
    }
  }
  return hash.digest('hex').slice(0, 16);
}

/** Where the tensors begin, and the file's size. Of PyTorch's files, whose directory is at the end, a few KiB serve. */
async function headerOf(path: string): Promise<{ readonly sizeBytes: number; readonly dataOffset: number }> {
  if (path.endsWith('.safetensors')) return readSafetensorsHeader(path);
  const { size } = await stat(path);
  return { sizeBytes: size, dataOffset: Math.min(size, SAMPLE_BYTES) };
}
