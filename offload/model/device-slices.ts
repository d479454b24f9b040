// What each of several devices has of a layer where they share its products: matrices and vectors in slices, the rest whole.

import { assert, OperatingError } from '../errors.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import { PART_NAMES, type PartName } from '../port/formats.js';
import {
  type LayerSpec,
  layerOf,
  type MatrixSpec,
  type SliceRun,
  type TensorSpec,
  vectorsOf,
} from './layout.js';
import { partAxes } from './part-axes.js';

/** Entries of a dimension that are shared among devices by themselves: those of all, and a device's. */
export interface SharedRun {
  readonly whole: number;
  readonly share: number;
}

/** How one dimension of a tensor is shared. */
export interface SharedDimension {
  readonly dimension: number;
  readonly runs: readonly SharedRun[];
}

/**
 * The dimension in which a device's shape differs from that of all, undefined where none does.
 * @param sections sizes of the runs that are shared each by itself, for both shapes; default one run
 */
export function sharedDimension(
  whole: readonly number[],
  share: readonly number[],
  sections?: readonly [readonly number[], readonly number[]],
): SharedDimension | undefined {
  const dimension = whole.findIndex((size, at) => size !== share[at]);
  if (dimension < 0) return undefined;
  const [from, to] = sections && dimension === 0 ? sections : [[whole[dimension]], [share[dimension]]];
  const runs = from.map((size = 0, at) => ({ whole: size, share: to[at] ?? 0 }));
  const total = (of: 'whole' | 'share') => runs.reduce((sum, run) => sum + run[of], 0);
  assert(
    total('whole') === whole[dimension] && total('share') === share[dimension],
    'sections are the dimension',
  );
  return { dimension, runs };
}

/** A range of a dimension. */
interface Range {
  readonly first: number;
  readonly count: number;
}

/** Which entries of each run a device has. Devices beyond as many as there are pieces have the same ones as others. */
function rangesOf({ runs }: SharedDimension, device: number, devices: number): Range[] {
  let before = 0;
  return runs.map(({ whole, share }) => {
    const pieces = whole / share;
    assert(Number.isInteger(pieces) && devices % pieces === 0, 'shares are equal');
    const first = before + Math.floor((device * pieces) / devices) * share;
    before += whole;
    return { first, count: share };
  });
}

/** Throws UNSUPPORTED where a matrix is stored in groups that a cut would go through. */
export function sliceLayer(
  layer: LayerSpec,
  shared: (key: string) => SharedDimension | undefined,
  devices: number,
): LayerSpec {
  const vectors = vectorsOf(layer).map((vector) => {
    const how = shared(vector.key);
    return how ? sliceVector(vector, how, devices) : vector;
  });
  const matrices = layer.matrices.map((matrix) => {
    const how = shared(matrix.key);
    if (!how) return matrix;
    const sliced = sliceSharedMatrix(matrix, how, devices);
    if (!sliced) throw cannotBeCut(layer.name, matrix, how.dimension === 1 ? 'inputs' : 'outputs', devices);
    return sliced;
  });
  return layerOf(layer.name, [...vectors, ...matrices]);
}

/** Whether each of so many devices can have an equal share of a matrix's outputs. */
export function canShareOutputs(matrix: MatrixSpec, devices: number): boolean {
  const whole = matrix.shape[0];
  if (whole % devices !== 0) return false;
  const how = { dimension: 0, runs: [{ whole, share: whole / devices }] };
  return sliceSharedMatrix(matrix, how, devices) !== undefined;
}

function sliceVector(stored: TensorSpec, how: SharedDimension, devices: number): TensorSpec {
  const { dimension } = how;
  const product = (sizes: readonly number[]) => sizes.reduce((all, size) => all * size, 1);
  const view = {
    before: product(stored.shape.slice(0, dimension)),
    size: stored.shape[dimension] ?? 1,
    after: product(stored.shape.slice(dimension + 1)),
  };
  const share = how.runs.reduce((sum, run) => sum + run.share, 0);
  return {
    ...stored,
    shape: stored.shape.map((size, at) => (at === dimension ? share : size)),
    slices: everyDevice(devices, (device) => runsOf(stored, view, rangesOf(how, device, devices))),
  };
}

/** Undefined where a cut would go through what several values share. */
function sliceSharedMatrix(
  matrix: MatrixSpec,
  how: SharedDimension,
  devices: number,
): MatrixSpec | undefined {
  const isPartial = how.dimension === 1;
  const [N, K] = matrix.shape;
  const share = how.runs.reduce((sum, run) => sum + run.share, 0);
  const parts: { -readonly [Name in PartName]?: TensorSpec } = {};
  for (const name of PART_NAMES) {
    const part = matrix.parts[name];
    if (!part) continue;
    const sliced = slicePart(matrix, name, how, devices);
    if (!sliced) return undefined;
    parts[name] = sliced;
  }
  return { ...matrix, shape: isPartial ? [N, share] : [share, K], parts, isPartial };
}

function slicePart(
  matrix: MatrixSpec,
  name: PartName,
  how: SharedDimension,
  devices: number,
): TensorSpec | undefined {
  const stored = matrix.parts[name];
  const axes = partAxes(matrix, name);
  if (!stored || !axes || matrix.firstRow !== 0) return undefined;
  const along = how.dimension === 1 ? axes.inputs : axes.outputs;
  if (!along) return stored;
  const { axis, values, elements } = along;
  const [rows, columns] = axes.shape;
  const size = axes.shape[axis];
  const inElements = (entries: number) => (entries * elements) / values;
  // One group for all.
  if (size === 1 && values > 1) return stored;
  const view = axis === 0 ? { before: 1, size, after: columns } : { before: rows, size, after: 1 };
  const ranges = everyDevice(devices, (device) =>
    rangesOf(how, device, devices).map(({ first, count }) => ({
      first: inElements(first),
      count: inElements(count),
    })),
  );
  if (ranges.flat().some(({ first, count }) => !Number.isInteger(first) || !Number.isInteger(count)))
    return undefined;
  const share = inElements(how.runs.reduce((sum, run) => sum + run.share, 0));
  const viewed = axis === 0 ? [share, columns] : [rows, share];
  // Flat parts stay flat.
  const shape = stored.shape.length === 1 ? [viewed.reduce((all, each) => all * each, 1)] : viewed;
  return {
    ...stored,
    shape,
    slices: ranges.map((some) => runsOf(stored, view, some)),
  };
}

function runsOf(
  { dtype }: TensorSpec,
  { before, size, after }: { readonly before: number; readonly size: number; readonly after: number },
  ranges: readonly Range[],
): SliceRun[] {
  const entryBytes = after * DTYPE_BYTES[dtype];
  const share = ranges.reduce((sum, { count }) => sum + count, 0);
  let to = 0;
  return ranges.map(({ first, count }) => {
    const toOffsetBytes = to * entryBytes;
    to += count;
    return {
      offsetBytes: first * entryBytes,
      strideBytes: size * entryBytes,
      toOffsetBytes,
      toStrideBytes: share * entryBytes,
      rowBytes: count * entryBytes,
      rows: before,
    };
  });
}

function everyDevice<T>(devices: number, make: (device: number) => T): T[] {
  return Array.from({ length: devices }, (_, device) => make(device));
}

function cannotBeCut(
  layer: string,
  { key, format, shape: [N, K] }: MatrixSpec,
  what: 'inputs' | 'outputs',
  devices: number,
): OperatingError {
  return new OperatingError(
    'UNSUPPORTED',
    `${layer} stores ${key} [${N}, ${K}] as ${format.name} in groups of ${format.rowGroup} × ${format.inputGroup}, so its ${what} ` +
      `cannot be shared by ${devices} devices: give another --num_gpus, or --parallel streams`,
  );
}
