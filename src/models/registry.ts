// All architectures, and the step from a configuration and a checkpoint to a ModelSpec. A new one is one line here.

import {
  DTYPE_BYTES,
  type DType,
  elementCount,
  type LayerSpec,
  type ModelSpec,
  OperatingError,
  type WeightSpec,
} from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint.js';
import type { Architecture, ArchitectureModel, TensorDef, TensorSource } from './architecture.js';
import { bloom } from './bloom.js';
import { ConfigReader } from './config-reader.js';
import { falcon } from './falcon.js';
import { gemma2 } from './gemma2.js';
import { gptNeo } from './gpt-neo.js';
import { gptNeox } from './gpt-neox.js';
import { gpt2 } from './gpt2.js';
import { gptj } from './gptj.js';
import { llama } from './llama.js';
import { mistral } from './mistral.js';
import { mixtral } from './mixtral.js';
import { opt } from './opt.js';
import { phi3 } from './phi3.js';
import { qwen2 } from './qwen2.js';
import { qwen3 } from './qwen3.js';
import { qwen3Moe } from './qwen3-moe.js';
import { starcoder2 } from './starcoder2.js';

export const ARCHITECTURES: readonly Architecture[] = [
  bloom,
  falcon,
  gemma2,
  gpt2,
  gptNeo,
  gptNeox,
  gptj,
  llama,
  mistral,
  mixtral,
  opt,
  phi3,
  qwen2,
  qwen3,
  qwen3Moe,
  starcoder2,
];

/** The architecture that config.json names, applied to it. Throws BAD_CONFIG or UNSUPPORTED. */
export function buildArchitecture(
  config: Readonly<Record<string, unknown>>,
  path: string,
): ArchitectureModel {
  const reader = new ConfigReader(config, path);
  const modelType = reader.text(['model_type']);
  const architecture = ARCHITECTURES.find(({ modelTypes }) => modelTypes.includes(modelType));
  if (!architecture) {
    const known = ARCHITECTURES.flatMap(({ modelTypes }) => modelTypes).join(', ');
    throw reader.unsupported('model_type', modelType, known);
  }
  return architecture.build(reader);
}

const STORED_TYPES: Readonly<Record<string, DType>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

/** Finds every tensor of the architecture in the checkpoint. Throws MISSING_TENSOR, WRONG_SHAPE or UNSUPPORTED. */
export function bindModel(model: ArchitectureModel, checkpoint: Checkpoint): ModelSpec {
  const bind = (def: TensorDef): WeightSpec => bindTensor(def, model, checkpoint);
  const layer = (name: string, defs: readonly TensorDef[]): LayerSpec => {
    const weights = defs.map(bind);
    checkExperts(name, weights, checkpoint);
    return { name, weights };
  };
  const tables = model.tables.map((def) => {
    const { dtype, extent } = bind(def);
    const [rowCount = 0, columns = 0] = def.shape;
    return {
      key: def.key,
      rowCount,
      columns,
      dtype,
      extent,
      rowsFrom: def.rowsFrom,
      rowOffset: def.rowOffset,
    };
  });
  const { projection, bias, tied } = model.head;
  const tokenTable = model.tables.find(({ rowsFrom }) => rowsFrom === 'token');
  const headDef = tied && tokenTable ? { ...tokenTable, key: projection.key } : projection;
  return {
    architecture: model.architecture,
    hiddenSize: model.hiddenSize,
    vocabSize: model.vocabSize,
    maxContextTokens: model.maxContextTokens,
    recomputeAtTokens: model.recomputeAtTokens,
    kvHeads: model.kvHeads,
    headDim: model.headDim,
    tables,
    fixed: layer('fixed weights', model.fixed),
    blocks: Array.from({ length: model.blockCount }, (_, index) =>
      layer(`block ${index}`, model.block(index)),
    ),
    head: { projection: bind(headDef), ...(bias ? { bias: bind(bias) } : {}) },
    logits: model.logits,
    constants: model.constants,
    forward: model.forward,
  };
}

/** The experts of a layer go through one product together. Throws UNSUPPORTED where their types differ. */
function checkExperts(layer: string, weights: readonly WeightSpec[], { folder }: Checkpoint): void {
  const types = new Map<string, DType>();
  for (const { key, dtype } of weights) {
    if (!/experts\.\d+\./.test(key)) continue;
    const matrix = key.replace(/experts\.\d+\./, 'experts.*.');
    const first = types.get(matrix) ?? dtype;
    if (first !== dtype) {
      throw new OperatingError(
        'UNSUPPORTED',
        `${folder}: ${layer} stores ${matrix} partly as ${first} and partly as ${dtype}: experts of a layer need one type`,
      );
    }
    types.set(matrix, first);
  }
}

/** Every tensor that a checkpoint of this architecture holds, with full names; what a random checkpoint is made of. */
export function tensorList(model: ArchitectureModel): { name: string; shape: readonly number[] }[] {
  const prefix = model.prefixes[0] ?? '';
  const inner = [...model.tables, ...model.fixed];
  for (let index = 0; index < model.blockCount; index++) inner.push(...(model.block(index) as typeof inner));
  const named = inner.map(({ name, shape }) => ({ name: `${prefix}${name}`, shape }));
  const { projection, bias, tied } = model.head;
  if (!tied) named.push({ name: projection.name, shape: projection.shape });
  if (bias) named.push({ name: bias.name, shape: bias.shape });
  return named;
}

function bindTensor(def: TensorDef, model: ArchitectureModel, checkpoint: Checkpoint): WeightSpec {
  const { stored, source } = findTensor(def, model, checkpoint);
  const dtype = STORED_TYPES[stored.dtype];
  if (!dtype) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${checkpoint.folder}: tensor ${stored.name} is stored as ${stored.dtype}; supported: F32, F16, BF16`,
    );
  }
  const elementBytes = DTYPE_BYTES[dtype];
  const { shape } = source;
  const same = stored.shape.length === shape.length && stored.shape.every((size, i) => size === shape[i]);
  if (!same || stored.sizeBytes !== elementCount(shape) * elementBytes) {
    throw new OperatingError(
      'WRONG_SHAPE',
      `${checkpoint.folder}: tensor ${stored.name} has shape [${stored.shape.join(', ')}], ` +
        `but config.json implies [${shape.join(', ')}]`,
    );
  }
  const extent = {
    fileIndex: stored.fileIndex,
    fileOffset: stored.fileOffset + source.firstElement * elementBytes,
    sizeBytes: elementCount(def.shape) * elementBytes,
  };
  return { key: def.key, dtype, shape: def.shape, extent };
}

/** Checkpoints name tensors with the model's prefix, or without it. */
function findTensor(
  def: TensorDef,
  model: ArchitectureModel,
  checkpoint: Checkpoint,
): { stored: StoredTensor; source: TensorSource } {
  const tried: string[] = [];
  for (const source of [{ ...def, firstElement: 0 }, ...(def.elsewhere ?? [])]) {
    for (const prefix of [...model.prefixes, '']) {
      const name = `${prefix}${source.name}`;
      const stored = checkpoint.find(name);
      if (stored) return { stored, source };
      tried.push(name);
    }
  }
  throw new OperatingError(
    'MISSING_TENSOR',
    `${checkpoint.folder}: the checkpoint has no tensor ${[...new Set(tried)].join(' or ')}, which ${model.architecture} needs`,
  );
}
