// A layer that comes in part: of its matrices that may be cut the first rows travel, and the others stay where the layer rests.

import { assert, present } from '../errors.js';
import { PART_NAMES } from '../port/formats.js';
import type { Tensor, Weight } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundDown } from '../units.js';
import type { CopyPiece, LayerLayout, MatrixSpec, TensorSpec } from './layout.js';
import { rowsBetweenCuts, sliceMatrix } from './slice-matrix.js';
import { weightOf } from './weights.js';

/** Shares are counted in parts of this: fine enough to be within some hundredths of what is best. */
export const CUTS = 32;
/** Kernels like rows by the dozen, and columns of results that begin at whole vectors. */
const LIKED_ROWS = [64, 8] as const;
/** Bytes that are cheaper to copy along than to leave out; the codes of a matrix are always left out. */
const LEAST_GAP_BYTES = 64 * 1024;

/** Each undefined where it has no rows. */
export interface CutMatrix {
  readonly travels: MatrixSpec | undefined;
  readonly stays: MatrixSpec | undefined;
}

export interface CutLayer {
  /** Rows that travel, in CUTS-ths. */
  readonly share: number;
  /** By key, those that are cut; all else travels. */
  readonly matrices: ReadonlyMap<string, CutMatrix>;
  /** From the host layout to the places that the whole layer has on a device. */
  readonly travelling: readonly CopyPiece[];
  /** All others: with these the layer is whole. */
  readonly staying: readonly CopyPiece[];
  readonly travellingBytes: number;
  readonly stayingBytes: number;
  /** Where the parts of some rows lie in those of all. */
  readonly origins: ReadonlyMap<TensorSpec, { readonly whole: TensorSpec; readonly skippedBytes: number }>;
}

/** Whether rows of a matrix can stay behind without any other's. */
export function canBeCut(matrix: MatrixSpec, others: readonly MatrixSpec[]): boolean {
  const parts = new Set(Object.values(matrix.parts));
  const isShared = others.some(
    (other) => other !== matrix && Object.values(other.parts).some((part) => parts.has(part)),
  );
  return rowsBetweenCuts(matrix) !== undefined && !isShared;
}

/** @param keys of matrices that may be cut */
export function cutLayer({ layer, device }: LayerLayout, keys: readonly string[], share: number): CutLayer {
  const matrices = new Map<string, CutMatrix>();
  const origins = new Map<TensorSpec, { whole: TensorSpec; skippedBytes: number }>();
  const offsets = new Map(device.placements.map(({ weight, offsetBytes }) => [weight, offsetBytes]));
  const gaps: Gap[] = [];
  for (const key of keys) {
    const whole = present(
      layer.matrices.find((matrix) => matrix.key === key),
      key,
    );
    const [N] = whole.shape;
    const rows = travellingRows(whole, share);
    if (rows === N) continue;
    const travels = rows > 0 ? sliceMatrix(whole, 0, rows) : undefined;
    const stays = sliceMatrix(whole, rows, N - rows);
    matrices.set(key, { travels, stays });
    for (const name of PART_NAMES) {
      const part = whole.parts[name];
      if (!part) continue;
      for (const slice of [travels, stays]) {
        const of = slice?.parts[name];
        if (!of || of === part) continue;
        origins.set(of, { whole: part, skippedBytes: of.extent.fileOffset - part.extent.fileOffset });
      }
      const needed = travels?.parts[name]?.extent.sizeBytes ?? 0;
      const start = present(offsets.get(part), part.key);
      const gap = { start: start + needed, end: start + part.extent.sizeBytes };
      const bytes = gap.end - gap.start;
      if (bytes > 0 && (name === 'codes' || bytes >= LEAST_GAP_BYTES)) gaps.push(gap);
    }
  }
  const { inside: staying, outside: travelling } = divide(device.copies, gaps);
  const bytesOf = (copies: readonly CopyPiece[]) => copies.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return {
    share,
    matrices,
    travelling,
    staying,
    travellingBytes: bytesOf(travelling),
    stayingBytes: bytesOf(staying),
    origins,
  };
}

/** Rows of a matrix as a weight, where `place` says that the tensors of the whole one lie. */
export function weightOfRows(
  { origins }: CutLayer,
  spec: MatrixSpec,
  place: (whole: TensorSpec) => Tensor,
): Weight {
  return weightOf(spec, (part) => {
    const origin = origins.get(part);
    if (!origin) return place(part);
    const { memory, offsetBytes } = place(origin.whole);
    return tensor(memory, offsetBytes + origin.skippedBytes, part.dtype, part.shape);
  });
}

/** Rows that travel at that share. */
function travellingRows(matrix: MatrixSpec, share: number): number {
  assert(share >= 0 && share <= CUTS, 'a share is a part of all rows');
  const [N] = matrix.shape;
  if (share === CUTS) return N;
  const step = present(rowsBetweenCuts(matrix), 'rows between cuts');
  const liked = LIKED_ROWS.find((rows) => N >= CUTS * rows) ?? 1;
  return roundDown(Math.round((N * share) / CUTS), Math.max(step, liked));
}

/** A range of a layer on a device. */
interface Gap {
  readonly start: number;
  readonly end: number;
}

/** The parts of copies that fall into gaps, and the others. */
function divide(
  copies: readonly CopyPiece[],
  gaps: readonly Gap[],
): { inside: CopyPiece[]; outside: CopyPiece[] } {
  const sorted = [...gaps].sort((a, b) => a.start - b.start);
  const inside: CopyPiece[] = [];
  const outside: CopyPiece[] = [];
  for (const { hostOffset, deviceOffset, sizeBytes } of copies) {
    const end = deviceOffset + sizeBytes;
    let at = deviceOffset;
    const take = (into: CopyPiece[], until: number) => {
      if (until <= at) return;
      into.push({ hostOffset: hostOffset + (at - deviceOffset), deviceOffset: at, sizeBytes: until - at });
      at = until;
    };
    for (const gap of sorted) {
      if (gap.end <= at || gap.start >= end) continue;
      take(outside, gap.start);
      take(inside, Math.min(gap.end, end));
    }
    take(outside, end);
  }
  return { inside, outside };
}
