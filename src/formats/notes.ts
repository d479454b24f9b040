// What small tensors hold that say how others are stored: read when a checkpoint is opened, since headers do not tell it.

import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { withFile } from '../files/byte-source.js';
import type { Declared } from './declared.js';

export interface Notes {
  /** A tensor's bytes, as far as they were read. */
  bytes(name: string): Uint8Array | undefined;
  /** Some matrix has scattered groups, or may have where an index was not read. */
  readonly isScattered: boolean;
}

export const NO_NOTES: Notes = { bytes: () => undefined, isScattered: true };

/** Without these nothing can be read: settings as JSON, a few hundred bytes each. */
const STATES = /\.quant_state\.bitsandbytes__\w+$/;
const INDICES = /[._]g_idx$/;
/** They repeat what is known, and are compared with it. */
const REPEATED = /\.(weight_shape|weight_format)$/;
const MOST_STATE_BYTES = 64 * 1024;
/** An index has four bytes per input, so this is all of them for models of 70 billion weights. */
const INDEX_BYTES = 32 * 1024 * 1024;
/** Where groups are said to follow each other, a look at a few is enough. */
const SAMPLED_INDEX_BYTES = 1024 * 1024;
const REPEATED_BYTES = 16 * 1024;
/** Enough to keep Node's four file threads busy. */
const READS_AT_ONCE = 8;

/** Errors: those of reading the weight files. */
export async function readNotes({ tensors, files }: Checkpoint, declared: Declared): Promise<Notes> {
  const wanted: StoredTensor[][] = [[], [], []];
  const patterns = [STATES, INDICES, REPEATED];
  for (const tensor of tensors.values()) {
    const kind = patterns.findIndex((pattern) => pattern.test(tensor.name));
    if (kind >= 0) wanted[kind]?.push(tensor);
  }
  const [states = [], indices = [], repeated = []] = wanted;
  const indexBytes = declared.gptq?.scattered === false ? SAMPLED_INDEX_BYTES : INDEX_BYTES;
  const known = new Map<string, Uint8Array>();
  const chosen = [
    ...states.filter(({ sizeBytes }) => sizeBytes <= MOST_STATE_BYTES),
    ...spread(indices, indexBytes),
    ...spread(repeated, REPEATED_BYTES),
  ];
  for (const [fileIndex, path] of files.entries()) {
    const here = chosen.filter((tensor) => tensor.fileIndex === fileIndex);
    if (here.length === 0) continue;
    await withFile(path, 'BAD_SAFETENSORS', async ({ read }) => {
      let next = 0;
      const worker = async () => {
        for (let tensor = here[next++]; tensor; tensor = here[next++]) {
          known.set(tensor.name, await read(tensor.fileOffset, tensor.sizeBytes));
        }
      };
      await Promise.all(Array.from({ length: READS_AT_ONCE }, worker));
    });
  }
  const sizes = declared.gptq?.groupSizes ?? declared.schemes.flatMap(({ groupSize }) => groupSize ?? []);
  const looked = indices.map(({ name }) => int32sOf(known.get(name)));
  const isUnread = looked.some((index) => index === undefined);
  return {
    bytes: (name) => known.get(name),
    isScattered:
      (isUnread && declared.gptq?.scattered !== false) ||
      !looked.every((index) => !index || sizes.some((size) => isPlain(index, size))),
  };
}

/** Groups of that size follow each other; -1 stands for one group. */
function isPlain(index: Int32Array, size: number): boolean {
  return index.every((group, k) => group === (size > 0 ? Math.floor(k / size) : 0));
}

/** All of them, or as many as so many bytes are, evenly spread. */
function spread(tensors: readonly StoredTensor[], mostBytes: number): readonly StoredTensor[] {
  const totalBytes = tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (totalBytes <= mostBytes) return tensors;
  const step = Math.ceil(totalBytes / mostBytes);
  return tensors.filter(({ sizeBytes }, i) => i % step === 0 && sizeBytes <= mostBytes);
}

/** Files put numbers at any address. */
export function int32sOf(bytes: Uint8Array | undefined): Int32Array | undefined {
  if (!bytes || bytes.byteLength % 4 !== 0) return undefined;
  return new Int32Array(Uint8Array.from(bytes).buffer);
}

export function int64sOf(bytes: Uint8Array | undefined): BigInt64Array | undefined {
  if (!bytes || bytes.byteLength % 8 !== 0) return undefined;
  return new BigInt64Array(Uint8Array.from(bytes).buffer);
}
