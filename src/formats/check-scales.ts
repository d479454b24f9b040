// Looks at the scales of stored weights when a model is opened: NaN and infinities, and zeros where codes are none, are damage.
//
// All of them where they are few, or as many as are read in a moment, spread over the model. What slips through makes
// values that are no finite numbers, which passes watch for.

import {
  DTYPE_BYTES,
  type DType,
  type MatrixSpec,
  MiB,
  type ModelSpec,
  OperatingError,
  type PartName,
  type TensorSpec,
} from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { type ByteSource, withFile } from '../files/byte-source.js';
import { isKnownTable } from './code-tables.js';
import { zeroScaleHidesCodes } from './zero-scales.js';

const CHECKED_BYTES = 16 * MiB;
const PIECE_BYTES = 256 * 1024;
/** A mixture has tens of thousands of small tensors of scales, and each is a read of its own. */
const MOST_PIECES = 2048;
/** Enough to keep Node's four file threads busy. */
const READS_AT_ONCE = 8;
/** Zeros of one piece whose codes are looked at, and of all together. */
const LOOKED_AT = 4;
const MOST_LOOKED_AT = 256;
const CHECKED_PARTS: readonly PartName[] = ['scales', 'global', 'table', 'nestedScales', 'nestedTable'];

interface Piece {
  readonly matrix: MatrixSpec;
  readonly part: PartName;
  readonly spec: TensorSpec;
  readonly firstElement: number;
  readonly elements: number;
}

/** Throws BAD_WEIGHTS, and errors of reading. */
export async function checkScales({ files, tensors }: Checkpoint, model: ModelSpec): Promise<void> {
  const pieces = choose(model);
  const looks = { left: MOST_LOOKED_AT };
  for (const [fileIndex, path] of files.entries()) {
    const here = pieces.filter(({ spec }) => spec.extent.fileIndex === fileIndex);
    if (here.length === 0) continue;
    await withFile(path, 'BAD_SAFETENSORS', async (source) => {
      let next = 0;
      const worker = async () => {
        for (let piece = here[next++]; piece; piece = here[next++]) {
          const problem = await problemOf(files, source, piece, looks);
          if (problem !== undefined) throw damaged(path, nameOf(tensors.values(), piece), problem);
        }
      };
      await Promise.all(Array.from({ length: READS_AT_ONCE }, worker));
    });
  }
}

function damaged(path: string, name: string, problem: string): OperatingError {
  return new OperatingError(
    'BAD_WEIGHTS',
    `${path}: tensor ${name} ${problem}: compare the file with its source`,
  );
}

function nameOf(tensors: Iterable<StoredTensor>, { spec }: Piece): string {
  const { fileIndex, fileOffset } = spec.extent;
  for (const tensor of tensors) {
    const isHere = tensor.fileOffset <= fileOffset && fileOffset < tensor.fileOffset + tensor.sizeBytes;
    if (tensor.fileIndex === fileIndex && isHere) return tensor.name;
  }
  return spec.key;
}

/** All pieces of what is checked, or every n-th of them. */
function choose({ blocks, head }: ModelSpec): Piece[] {
  const pieces: Piece[] = [];
  const seen = new Set<string>();
  for (const matrix of [...blocks.flatMap(({ matrices }) => matrices), head.projection]) {
    for (const part of CHECKED_PARTS) {
      const spec = matrix.parts[part];
      if (!spec) continue;
      const { fileIndex, fileOffset, sizeBytes } = spec.extent;
      const place = `${fileIndex} ${fileOffset}`;
      if (seen.has(place) || !(spec.dtype in NOT_FINITE)) continue;
      seen.add(place);
      const each = PIECE_BYTES / DTYPE_BYTES[spec.dtype];
      const total = sizeBytes / DTYPE_BYTES[spec.dtype];
      for (let firstElement = 0; firstElement < total; firstElement += each) {
        pieces.push({ matrix, part, spec, firstElement, elements: Math.min(each, total - firstElement) });
      }
    }
  }
  const bytesOf = ({ elements, spec }: Piece) => elements * DTYPE_BYTES[spec.dtype];
  const totalBytes = pieces.reduce((sum, piece) => sum + bytesOf(piece), 0);
  const step = Math.max(Math.ceil(totalBytes / CHECKED_BYTES), Math.ceil(pieces.length / MOST_PIECES));
  return pieces.filter((_, index) => index % step === 0);
}

async function problemOf(
  files: readonly string[],
  source: ByteSource,
  piece: Piece,
  looks: { left: number },
): Promise<string | undefined> {
  const { spec, firstElement, elements, part } = piece;
  const bytes = DTYPE_BYTES[spec.dtype];
  const read = await source.read(spec.extent.fileOffset + firstElement * bytes, elements * bytes);
  const bits = bitsOf(read, bytes);
  const isNotFinite = NOT_FINITE[spec.dtype];
  const isZero = ZERO[spec.dtype];
  const zeros: number[] = [];
  if (part === 'table' && !isKnownTable(read)) return 'is neither the table of NF4 nor that of FP4';
  for (const [i, value] of bits.entries()) {
    if (isNotFinite?.(value)) return `holds a scale that is no finite number, at element ${firstElement + i}`;
    if (isZero?.(value) && zeros.length < LOOKED_AT) zeros.push(firstElement + i);
  }
  for (const index of zeros) {
    if (part === 'global') return 'is zero, and so would be all weights';
    if (part === 'scales' && looks.left-- > 0 && (await zeroScaleHidesCodes(files, piece.matrix, index))) {
      return `holds a scale of zero for codes that are not zero, at element ${index}`;
    }
  }
  return undefined;
}

/** Numbers of unsigned bits, wherever the bytes lie. */
function bitsOf(bytes: Uint8Array, elementBytes: number): Uint8Array | Uint16Array | Uint32Array {
  if (elementBytes === 1) return bytes;
  const { buffer } = Uint8Array.from(bytes);
  return elementBytes === 2 ? new Uint16Array(buffer) : new Uint32Array(buffer);
}

const NOT_FINITE: { readonly [Type in DType]?: (bits: number) => boolean } = {
  f32: (bits) => (bits & 0x7f800000) === 0x7f800000,
  f16: (bits) => (bits & 0x7c00) === 0x7c00,
  bf16: (bits) => (bits & 0x7f80) === 0x7f80,
  e4m3: (bits) => (bits & 0x7f) === 0x7f,
  e8m0: (bits) => bits === 0xff,
};

/** A power of two is never zero. */
const ZERO: { readonly [Type in DType]?: (bits: number) => boolean } = {
  f32: (bits) => (bits & 0x7fffffff) === 0,
  f16: (bits) => (bits & 0x7fff) === 0,
  bf16: (bits) => (bits & 0x7fff) === 0,
  e4m3: (bits) => (bits & 0x7f) === 0,
};
