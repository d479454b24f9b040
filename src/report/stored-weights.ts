// How a model's weights are stored: a name for every format, and what each kind of layer takes.

import {
  elementCount,
  type LayerSpec,
  type MatrixSpec,
  type ModelSpec,
  type TensorSpec,
} from '../../offload/index.js';

/** Layers that are stored alike. */
export interface StoredLayers {
  readonly kind: 'block' | 'head' | 'embedding' | 'norms';
  readonly count: number;
  /** A name per format of its matrices, that of most bytes first. */
  readonly formats: readonly string[];
  readonly bytesEach: number;
  /** Bits that a value of its matrices takes, scales and the like included. */
  readonly bitsPerWeight: number;
}

/** `bf16`, `int4 in groups of 64, bf16 scales`: what people call the format of a matrix. */
export function formatName(matrix: MatrixSpec): string {
  const { format, parts } = matrix;
  const scales = parts.scales ? `, ${parts.scales.dtype} scales` : '';
  const grouped = (name: string) => `${name}${groupsOf(matrix)}${scales}`;
  switch (format.name) {
    case 'dense':
    case 'dense_in':
      return format.type;
    case 'e4m3':
    case 'e4m3_in':
      return grouped('fp8');
    case 'int8':
    case 'packed8':
      return grouped('int8');
    case 'packed4':
      return grouped('int4');
    case 'fp4':
      return grouped(parts.global ? 'nvfp4' : 'mxfp4');
    case 'table4':
      return grouped('4 bits by a table');
    case 'awq':
      return grouped('AWQ int4');
    case 'gptq':
      return grouped(`GPTQ int${format.bits}`);
  }
}

/** Which values share a scale. */
function groupsOf({ format, shape: [N, K], parts }: MatrixSpec): string {
  const { rowGroup, inputGroup } = format;
  if (parts.groups) return ' in scattered groups';
  if (inputGroup < K || format.name === 'table4') {
    return rowGroup === 1 ? ` in groups of ${inputGroup}` : ` in blocks of ${rowGroup}×${inputGroup}`;
  }
  return rowGroup < N ? ' by rows' : ' as a whole';
}

/** What is stored of the model, layers of a kind together, in the order in which they are used. */
export function storedLayers({ tables, fixed, blocks, head }: ModelSpec): StoredLayers[] {
  const found = new Map<string, StoredLayers>();
  const add = (layer: StoredLayers) => {
    const key = `${layer.kind} ${layer.formats.join()} ${layer.bytesEach}`;
    const before = found.get(key);
    found.set(key, before ? { ...before, count: before.count + layer.count } : layer);
  };
  for (const { dtype, extent, rowCount, columns } of tables) {
    const bitsPerWeight = (8 * extent.sizeBytes) / (rowCount * columns);
    add({ kind: 'embedding', count: 1, formats: [dtype], bytesEach: extent.sizeBytes, bitsPerWeight });
  }
  if (fixed.tensors.length > 0) add(ofLayer('norms', fixed));
  for (const block of blocks) add(ofLayer('block', block));
  const bias = head.bias ? [head.bias] : [];
  const tensors = [...Object.values(head.projection.parts), ...bias];
  add(ofLayer('head', { name: 'head', tensors, matrices: [head.projection] }));
  return [...found.values()];
}

function ofLayer(kind: StoredLayers['kind'], { tensors, matrices }: LayerSpec): StoredLayers {
  const bytesOf = new Map<string, number>();
  let [bytes, elements] = [0, 0];
  for (const matrix of matrices) {
    const own = sum(Object.values(matrix.parts));
    bytes += own;
    elements += elementCount(matrix.shape);
    const name = formatName(matrix);
    bytesOf.set(name, (bytesOf.get(name) ?? 0) + own);
  }
  const formats = [...bytesOf].sort(([, a], [, b]) => b - a).map(([name]) => name);
  return {
    kind,
    count: 1,
    formats: formats.length > 0 ? formats : [...new Set(tensors.map(({ dtype }) => dtype))],
    bytesEach: sum(tensors),
    bitsPerWeight: elements > 0 ? (8 * bytes) / elements : (8 * sum(tensors)) / countOf(tensors),
  };
}

function sum(tensors: readonly TensorSpec[]): number {
  return tensors.reduce((bytes, { extent }) => bytes + extent.sizeBytes, 0);
}

function countOf(tensors: readonly TensorSpec[]): number {
  return tensors.reduce((count, { shape }) => count + elementCount(shape), 0);
}

/** The format of most bytes, for a line about a run. */
export function storedAs(layers: readonly LayerSpec[]): string {
  const bytesOf = new Map<string, number>();
  for (const matrix of layers.flatMap(({ matrices }) => matrices)) {
    const name = formatName(matrix);
    bytesOf.set(name, (bytesOf.get(name) ?? 0) + sum(Object.values(matrix.parts)));
  }
  const [most] = [...bytesOf].sort(([, a], [, b]) => b - a);
  return most?.[0] ?? 'f32';
}
