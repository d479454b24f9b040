// The files of a store before any is written: which tensors lie in each, in which order, and where they come from.

import { OperatingError } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import type { TensorEntry } from '../checkpoint/safetensors-header.js';
import { arrange, spread, type Unit } from './arrange.js';
import type { Contents, LayerContents, Matrix } from './contents.js';
import { type PackedParts, type PackSettings, partsOf, type Scheme, schemeOf } from './scheme.js';

/** A tensor of the store. Scales lie behind their codes, at once where they fill a page. */
export type Section = TensorEntry &
  (
    | { readonly from: 'codes'; readonly matrix: Matrix; readonly parts: PackedParts }
    | { readonly from: 'scales' }
    | { readonly from: 'bytes'; readonly bytes: Uint8Array; readonly isFiller: boolean }
    | { readonly from: 'copy'; readonly stored: StoredTensor }
  );

export interface StoreFile {
  readonly name: string;
  readonly layer: string;
  readonly sections: readonly Section[];
  /** Bytes of its tensors. */
  readonly sizeBytes: number;
  /** What is read of the source for it. */
  readonly sourceBytes: number;
}

export interface StorePlan {
  readonly scheme: Scheme;
  readonly files: readonly StoreFile[];
  /** Values read from the source. */
  readonly sourceBytes: number;
  readonly ignored: readonly string[];
}

/** Throws BAD_OPTION for groups that do not fit. */
export function planStore(contents: Contents, settings: PackSettings): StorePlan {
  const scheme = schemeOf(settings.weights, groupFor(contents, settings));
  const files = contents.layers.flatMap((layer, index) => filesOf(layer, index, scheme, settings.gpus));
  const sourceBytes = files.reduce((sum, file) => sum + file.sourceBytes, 0);
  return { scheme, files, sourceBytes, ignored: contents.ignored };
}

const VALUE_BYTES = { f32: 4, f16: 2, bf16: 2 } as const;

export function matrixBytes({ rows, inputs, dtype }: Matrix): number {
  return rows * inputs * VALUE_BYTES[dtype];
}

function sourceBytesOf(section: Section): number {
  if (section.from === 'codes') return matrixBytes(section.matrix);
  return section.from === 'copy' ? section.sizeBytes : 0;
}

/** The rest is one file: its tables are looked up row by row, and its head is one tensor. */
function filesOf(layer: LayerContents, index: number, scheme: Scheme, gpus: number): StoreFile[] {
  const units: Unit<Section>[] = [
    ...layer.matrices.map((matrix) => ({ tensors: sectionsOf(matrix, scheme) })),
    ...layer.copies.map((stored) => ({ tensors: [copied(stored)] })),
  ];
  const spreadOver = layer.matrices.length === 0 ? 1 : gpus;
  // Whoever gets most of a layer gets less of the next.
  const shares = spread(units, spreadOver);
  return shares.map((_, gpu): StoreFile => {
    const own = shares[(gpu + index) % spreadOver] ?? [];
    const name = spreadOver === 1 ? layer.name : `${layer.name}-gpu-${gpu}`;
    const sections = arrange(own, name).map(
      (tensor): Section => ('from' in tensor ? tensor : filler(tensor)),
    );
    const sizeBytes = sections.reduce((sum, section) => sum + section.sizeBytes, 0);
    const sourceBytes = sections.reduce((sum, section) => sum + sourceBytesOf(section), 0);
    return { name: `${name}.safetensors`, layer: layer.name, sections, sizeBytes, sourceBytes };
  });
}

function sectionsOf(matrix: Matrix, scheme: Scheme): Section[] {
  const parts = partsOf(scheme, matrix);
  const { codes, scales, shape } = parts;
  const sections: Section[] = [
    { ...codes, from: 'codes', matrix, parts },
    { ...scales, from: 'scales' },
  ];
  if (shape) sections.push({ ...shape, from: 'bytes', bytes: shapeBytes(matrix), isFiller: false });
  return sections;
}

function shapeBytes({ rows, inputs }: Matrix): Uint8Array {
  return new Uint8Array(BigInt64Array.of(BigInt(rows), BigInt(inputs)).buffer);
}

function copied(stored: StoredTensor): Section {
  const { name, dtype, shape, sizeBytes } = stored;
  return { name, dtype, shape, sizeBytes, from: 'copy', stored };
}

function filler(tensor: TensorEntry): Section {
  return { ...tensor, from: 'bytes', bytes: new Uint8Array(tensor.sizeBytes), isFiller: true };
}

const USUAL_GROUP = 64;
/** Smaller groups take more for scales than they gain; kernels read codes by bytes and words. */
const LEAST_GROUP = 8;

function groupFor({ layers }: Contents, { weights, groupSize }: PackSettings): number | 'channel' {
  if (weights === 'fp8') return 'channel';
  if (groupSize === 'channel') return groupSize;
  const matrices = layers.flatMap((layer) => layer.matrices);
  const fits = (group: number) => matrices.every(({ inputs }) => inputs % group === 0);
  if (groupSize === undefined) {
    for (let group = USUAL_GROUP; group >= LEAST_GROUP; group /= 2) if (fits(group)) return group;
    return 'channel';
  }
  const misfit = matrices.find(({ inputs }) => inputs % groupSize !== 0);
  if (!misfit) return groupSize;
  throw new OperatingError(
    'BAD_OPTION',
    `--group_size is ${groupSize}, but ${misfit.module} has ${misfit.inputs} inputs, which that does not divide: give a ` +
      "divisor of all matrices' inputs, or 'channel' for a scale per row, or leave it out",
  );
}

export interface Unevenness {
  /** The largest file of the most uneven layer over an equal share of that layer: 1 at best. */
  readonly layer: number;
  /** The same of all layers together: what each device reads in a pass. */
  readonly all: number;
}

/** How equal the files are that blocks are spread over. */
export function unevenness(files: readonly StoreFile[]): Unevenness {
  const byLayer = new Map<string, number[]>();
  for (const { layer, sizeBytes } of files) {
    byLayer.set(layer, [...(byLayer.get(layer) ?? []), sizeBytes]);
  }
  const spreads = [...byLayer.values()].filter((sizes) => sizes.length > 1);
  const perDevice = (spreads[0] ?? []).map((_, device) =>
    spreads.reduce((sum, sizes) => sum + (sizes[device] ?? 0), 0),
  );
  return { layer: Math.max(1, ...spreads.map(largestShare)), all: Math.max(1, largestShare(perDevice)) };
}

function largestShare(sizes: readonly number[]): number {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return total === 0 ? 1 : (Math.max(...sizes) * sizes.length) / total;
}
