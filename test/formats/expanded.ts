// A stored checkpoint with every matrix expanded by the reference: what the same model is without formats.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MatrixSpec, TensorSpec } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { chooseWay, type TensorDef } from '../../src/models/architecture.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { type TestTensor, writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { valuesOf } from './matrix-values.js';
import { bytesOf } from './stored-tensor.js';

const STORED = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

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
    return { name, dtype: STORED[format.type], shape: stored, data: bytesOf(format.type, ordered) };
  };
  const copied = ({ dtype, shape, extent }: TensorSpec, name: string): TestTensor => {
    const content = readFileSync(files[extent.fileIndex] ?? '');
    const data = content.subarray(extent.fileOffset, extent.fileOffset + extent.sizeBytes);
    // Read as pairs of words.
    if (dtype === 'i32') return { name, dtype: 'I64', shape: [shape[0] ?? 0, (shape[1] ?? 0) / 2], data };
    return { name, dtype: STORED[dtype as 'f32'], shape, data };
  };
  const layers = [
    { layer: model.fixed, defs: architecture.fixed },
    ...model.blocks.map((layer, index) => ({
      layer,
      defs: chooseWay(architecture.block(index), (def) => layer.matrices.some(({ key }) => key === def.key)),
    })),
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
