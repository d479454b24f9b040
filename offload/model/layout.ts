// Layouts: where a layer's tensors lie in a host buffer (the file's own bytes) and on a device (aligned), and its shards.

import { assert } from '../errors.js';
import { DEVICE_ALIGNMENT_BYTES, READ_ALIGNMENT_BYTES } from '../port/backend.js';
import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import { type Format, PART_NAMES, type Parts } from '../port/formats.js';
import { roundDown, roundUp } from '../units.js';

/** Where some bytes of a layer lie in a file. */
export interface Extent {
  /** Index into the weight source's files. */
  readonly fileIndex: number;
  readonly fileOffset: number;
  readonly sizeBytes: number;
}

/** Equal runs of bytes of a stored tensor, and where they go in a device's slice of it. */
export interface SliceRun {
  readonly offsetBytes: number;
  readonly strideBytes: number;
  readonly toOffsetBytes: number;
  readonly toStrideBytes: number;
  readonly rowBytes: number;
  readonly rows: number;
}

/** A stored tensor of a layer: its key, its type and shape, and its bytes. */
export interface TensorSpec {
  readonly key: string;
  readonly dtype: DType;
  /** On each device. */
  readonly shape: readonly number[];
  /** The whole tensor's. */
  readonly extent: Extent;
  /** Where devices share it: what each of them has, by device. */
  readonly slices?: readonly (readonly SliceRun[])[];
}

/** A matrix of a layer: how the forward names it, and which tensors it is stored as. See Weight in port/ops.ts. */
export interface MatrixSpec {
  readonly key: string;
  readonly format: Format;
  readonly shape: readonly [number, number];
  readonly firstRow: number;
  readonly parts: Parts<TensorSpec>;
  /** Devices share its inputs: what one of them makes is a summand of the product. */
  readonly isPartial?: boolean;
}

/** The unit of streaming: a decoder block, a piece of the head, or the small tensors of the embedding. */
export interface LayerSpec {
  readonly name: string;
  /** All of them, those that matrices are stored as too: what is brought. */
  readonly tensors: readonly TensorSpec[];
  readonly matrices: readonly MatrixSpec[];
}

/** A layer of vectors and of matrices, whose tensors are then the layer's. */
export function layerOf(name: string, parts: readonly (TensorSpec | MatrixSpec)[]): LayerSpec {
  const isMatrix = (part: TensorSpec | MatrixSpec): part is MatrixSpec => 'parts' in part;
  return {
    name,
    tensors: parts.flatMap((part) => (isMatrix(part) ? tensorsOf(part) : part)),
    matrices: parts.filter(isMatrix),
  };
}

/** The tensors of a layer that no matrix is stored as. */
export function vectorsOf({ tensors, matrices }: LayerSpec): TensorSpec[] {
  const parts = new Set(matrices.flatMap(tensorsOf));
  return tensors.filter((tensor) => !parts.has(tensor));
}

/** The tensors that a matrix is stored as. */
export function tensorsOf({ parts }: MatrixSpec): TensorSpec[] {
  return PART_NAMES.flatMap((name) => parts[name] ?? []);
}

/** Where a weight begins in a run of bytes. */
export interface Placement {
  readonly weight: TensorSpec;
  readonly offsetBytes: number;
}

/** One read: an aligned superset of neighbouring extents. */
export interface Run {
  readonly fileIndex: number;
  readonly fileOffset: number;
  readonly sizeBytes: number;
  /** Up to the last byte that a weight needs; the rest of the superset may lie beyond the end of the file. */
  readonly requiredBytes: number;
  readonly bufferOffset: number;
}

/** A layer in a host buffer: the file's bytes, read in place, so tensors are wherever the file has them. */
export interface HostLayout {
  readonly sizeBytes: number;
  readonly runs: readonly Run[];
  readonly placements: readonly Placement[];
}

/** One copy from a host buffer to the device layout. */
export interface CopyPiece {
  readonly hostOffset: number;
  readonly deviceOffset: number;
  readonly sizeBytes: number;
}

/** Copies of equal runs of bytes. */
export interface CopyRows {
  readonly hostOffset: number;
  readonly hostStrideBytes: number;
  readonly deviceOffset: number;
  readonly deviceStrideBytes: number;
  readonly rowBytes: number;
  readonly rows: number;
}

/** A layer on a device: one flat run, every tensor aligned, and the copies that fill it from the host layout. */
export interface DeviceLayout {
  readonly sizeBytes: number;
  readonly placements: readonly Placement[];
  /** Alike on all devices. */
  readonly copies: readonly CopyPiece[];
  /** By device, those of its slices; none where devices have all of the layer. */
  readonly slices: readonly (readonly CopyRows[])[];
}

/** Unneeded bytes between two extents that are cheaper to read than a second request. */
const MERGE_GAP_BYTES = 16 * 1024;

export function hostLayout(layer: LayerSpec): HostLayout {
  const sorted = [...layer.tensors].sort(
    (a, b) => a.extent.fileIndex - b.extent.fileIndex || a.extent.fileOffset - b.extent.fileOffset,
  );
  const runs: { fileIndex: number; start: number; end: number; needed: number; bufferOffset: number }[] = [];
  const placements: Placement[] = [];
  let used = 0;
  for (const weight of sorted) {
    const { fileIndex, fileOffset, sizeBytes } = weight.extent;
    assert(
      weight.slices !== undefined || sizeBytes === deviceBytes(weight),
      `${layer.name} ${weight.key}: extent and shape agree`,
    );
    let run = runs.at(-1);
    if (!run || run.fileIndex !== fileIndex || fileOffset > run.end + MERGE_GAP_BYTES) {
      const start = roundDown(fileOffset, READ_ALIGNMENT_BYTES);
      run = { fileIndex, start, end: start, needed: start, bufferOffset: used };
      runs.push(run);
    }
    run.needed = Math.max(run.needed, fileOffset + sizeBytes);
    run.end = roundUp(run.needed, READ_ALIGNMENT_BYTES);
    used = run.bufferOffset + (run.end - run.start);
    placements.push({ weight, offsetBytes: run.bufferOffset + (fileOffset - run.start) });
  }
  return {
    sizeBytes: used,
    runs: runs.map((run) => ({
      fileIndex: run.fileIndex,
      fileOffset: run.start,
      sizeBytes: run.end - run.start,
      requiredBytes: run.needed - run.start,
      bufferOffset: run.bufferOffset,
    })),
    placements,
  };
}

/** All that a host buffer holds, or some of it, on a device. */
export function deviceLayout({ placements: inHost }: Pick<HostLayout, 'placements'>): DeviceLayout {
  const placements: Placement[] = [];
  const copies: { hostOffset: number; deviceOffset: number; sizeBytes: number }[] = [];
  const slices: CopyRows[][] = [];
  let used = 0;
  for (const { weight, offsetBytes: hostOffset } of inHost) {
    const sizeBytes = deviceBytes(weight);
    const deviceOffset = roundUp(used, DEVICE_ALIGNMENT_BYTES);
    const last = copies.at(-1);
    if (weight.slices) {
      for (const [device, runs] of weight.slices.entries()) {
        slices[device] ??= [];
        slices[device].push(...runs.map((run) => copyOf(run, hostOffset, deviceOffset)));
      }
    } else if (last && hostOffset - last.hostOffset === deviceOffset - last.deviceOffset) {
      // Neighbours in the file that stay neighbours on the device travel in one copy.
      last.sizeBytes = deviceOffset + sizeBytes - last.deviceOffset;
    } else {
      copies.push({ hostOffset, deviceOffset, sizeBytes });
    }
    placements.push({ weight, offsetBytes: deviceOffset });
    used = deviceOffset + sizeBytes;
  }
  return { sizeBytes: roundUp(used, DEVICE_ALIGNMENT_BYTES), placements, copies, slices };
}

function deviceBytes({ shape, dtype }: TensorSpec): number {
  return elementCount(shape) * DTYPE_BYTES[dtype];
}

function copyOf(run: SliceRun, hostOffset: number, deviceOffset: number): CopyRows {
  return {
    hostOffset: hostOffset + run.offsetBytes,
    hostStrideBytes: run.strideBytes,
    deviceOffset: deviceOffset + run.toOffsetBytes,
    deviceStrideBytes: run.toStrideBytes,
    rowBytes: run.rowBytes,
    rows: run.rows,
  };
}

/** A byte range [startBytes, endBytes) of a layer that one device fetches over its own link. */
export interface Shard {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** Room for a layer on a device where `count` shards of equal size are gathered: at most `count` · 256 bytes more. */
export function gatheredBytes(sizeBytes: number, count: number): number {
  return count * roundUp(Math.ceil(sizeBytes / count), DEVICE_ALIGNMENT_BYTES);
}

/** Cuts a layer's bytes into `count` aligned ranges of equal size but for the last ones, which may be empty. */
export function cutShards(sizeBytes: number, count: number): Shard[] {
  const each = gatheredBytes(sizeBytes, count) / count;
  return Array.from({ length: count }, (_, index) => ({
    startBytes: Math.min(sizeBytes, index * each),
    endBytes: Math.min(sizeBytes, (index + 1) * each),
  }));
}

/** The parts of a layer's copies that fall into a shard. */
export function copiesOfShard(layout: DeviceLayout, shard: Shard): CopyPiece[] {
  const pieces: CopyPiece[] = [];
  for (const copy of layout.copies) {
    const start = Math.max(copy.deviceOffset, shard.startBytes);
    const end = Math.min(copy.deviceOffset + copy.sizeBytes, shard.endBytes);
    if (start >= end) continue;
    pieces.push({
      hostOffset: copy.hostOffset + (start - copy.deviceOffset),
      deviceOffset: start,
      sizeBytes: end - start,
    });
  }
  return pieces;
}

/** Both layouts of a layer, computed once. */
export interface LayerLayout {
  readonly layer: LayerSpec;
  readonly host: HostLayout;
  readonly device: DeviceLayout;
}

export function layoutLayer(layer: LayerSpec): LayerLayout {
  const before = known.get(layer);
  if (before) return before;
  const host = hostLayout(layer);
  const layout = { layer, host, device: deviceLayout(host) };
  known.set(layer, layout);
  return layout;
}

/** A model is planned for again and again where the largest batch is looked for. */
const known = new WeakMap<LayerSpec, LayerLayout>();
