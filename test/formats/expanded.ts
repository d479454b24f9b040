// A stored checkpoint with every matrix expanded by the reference: what the same model is without formats.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DTYPE_BYTES, type FloatType, type MatrixSpec, type TensorSpec } from '../../offload/index.js';
import { weightOf } from '../../offload/model/weights.js';
import { contiguousStrides, type Memory, type Tensor, type Weight } from '../../offload/port/ops.js';
import { type OpenedModel, openModel } from '../../src/engine/open-model.js';
import type { TensorDef } from '../../src/models/architecture.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { type TestTensor, writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { expandReference } from '../native/reference-weights.js';
import { writeElement } from '../native/tensor-bytes.js';

const STORED = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

/** Every matrix of an opened model by its name: a block's as `2 mlp.up_proj.weight`, `fixed …`, and `head`. */
export function matricesOf({ model }: OpenedModel): Map<string, MatrixSpec> {
  return new Map([
    ...model.blocks.flatMap(({ matrices }, index) =>
      matrices.map((matrix) => [`${index} ${matrix.key}`, matrix] as const),
    ),
    ...model.fixed.matrices.map((matrix) => [`fixed ${matrix.key}`, matrix] as const),
    ['head', model.head.projection],
  ]);
}

/** The values of a matrix [N · K], by the reference. */
export function valuesOf(spec: MatrixSpec, files: readonly string[]): Float64Array {
  const { weight, bytes } = weightInFiles(spec, files);
  return expandReference(weight, bytes);
}

function weightInFiles(spec: MatrixSpec, files: readonly string[]) {
  const contents = new Map<number, DataView>();
  const place = ({ dtype, shape, extent }: TensorSpec): Tensor => {
    const { fileIndex, fileOffset } = extent;
    if (!contents.has(fileIndex)) {
      const { buffer, byteOffset, byteLength } = readFileSync(files[fileIndex] ?? '');
      contents.set(fileIndex, new DataView(buffer, byteOffset, byteLength));
    }
    const memory: Memory = { id: fileIndex, sizeBytes: contents.get(fileIndex)?.byteLength ?? 0 };
    return { memory, offsetBytes: fileOffset, dtype, shape, strides: contiguousStrides(shape) };
  };
  const weight: Weight = weightOf(spec, place);
  return { weight, bytes: ({ id }: Memory) => contents.get(id) ?? new DataView(new ArrayBuffer(0)) };
}

/** Writes the expanded checkpoint to a folder of its own, without tokenizer. */
export async function expandedCheckpoint(folder: string): Promise<string> {
  const {
    quantization_config: _,
    compression_config: __,
    ...config
  } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
  const { model, checkpoint } = await openModel(folder);
  const { files } = checkpoint;
  const architecture = buildArchitecture(config, 'config.json');
  const prefix = architecture.prefixes[0] ?? '';
  const expanded = (matrix: MatrixSpec, { name, inputMajor }: TensorDef): TestTensor => {
    const { shape, format } = matrix;
    const values = valuesOf(matrix, files);
    const [N, K] = shape;
    const ordered = inputMajor
      ? values.map((_value, i) => values[(i % N) * K + Math.floor(i / N)] ?? 0)
      : values;
    const stored = inputMajor ? [K, N] : shape;
    return { name, dtype: STORED[format.type], shape: stored, data: storedBytes(ordered, format.type) };
  };
  const copied = ({ dtype, shape, extent }: TensorSpec, name: string): TestTensor => {
    const content = readFileSync(files[extent.fileIndex] ?? '');
    const data = content.subarray(extent.fileOffset, extent.fileOffset + extent.sizeBytes);
    return { name, dtype: STORED[dtype as 'f32'], shape, data };
  };
  const layers = [
    { layer: model.fixed, defs: architecture.fixed },
    ...model.blocks.map((layer, index) => ({ layer, defs: architecture.block(index) })),
  ];
  const tensors = layers.flatMap(({ layer, defs }) =>
    defs.flatMap((def) => {
      const name = `${prefix}${def.name}`;
      const matrix = layer.matrices.find(({ key }) => key === def.key);
      const tensor = layer.tensors.find(({ key }) => key === def.key);
      if (matrix) return [expanded(matrix, { ...def, name })];
      return tensor ? [copied(tensor, name)] : [];
    }),
  );
  const tables = model.tables.map((table, index) => {
    const name = `${prefix}${architecture.tables[index]?.name}`;
    return copied({ ...table, shape: [table.rowCount, table.columns] }, name);
  });
  const { projection, bias, tied } = architecture.head;
  const head = tied ? [] : [expanded(model.head.projection, projection)];
  if (bias && model.head.bias) head.push(copied(model.head.bias, bias.name));
  const to = tempFolder();
  writeFileSync(join(to, 'config.json'), JSON.stringify(config));
  writeSafetensors(join(to, 'model.safetensors'), [...tables, ...tensors, ...head]);
  return to;
}

/** Values that the type holds exactly. */
function storedBytes(values: Float64Array, dtype: FloatType): Uint8Array {
  const sizeBytes = values.length * DTYPE_BYTES[dtype];
  const view = new DataView(new ArrayBuffer(sizeBytes));
  const tensor: Tensor = {
    memory: { id: 0, sizeBytes },
    offsetBytes: 0,
    dtype,
    shape: [values.length],
    strides: [1],
  };
  for (const [i, value] of values.entries()) writeElement(tensor, view, [i], value);
  return new Uint8Array(view.buffer);
}
