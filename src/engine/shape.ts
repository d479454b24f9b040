// A model from its shape alone: configuration in, extents laid end to end in a file that does not exist.

import { basename } from 'node:path';
import { DTYPE_BYTES, type DType, elementCount } from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import type { JsonObject } from '../files/json-file.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture, tensorList } from '../models/registry.js';
import type { OpenedModel } from './open-model.js';

export type TypeName = 'float16' | 'bfloat16' | 'float32';

const STORED: Readonly<Record<TypeName, { readonly stored: string; readonly dtype: DType }>> = {
  float16: { stored: 'F16', dtype: 'f16' },
  bfloat16: { stored: 'BF16', dtype: 'bf16' },
  float32: { stored: 'F32', dtype: 'f32' },
};

/** Can be planned but not run. Throws BAD_CONFIG or UNSUPPORTED. @param type default the configuration's own */
export function shapeModel(config: JsonObject, path: string, type = shapeType(config)): OpenedModel {
  const architecture = buildArchitecture(config, path);
  const { stored, dtype } = STORED[type];
  const tensors = new Map<string, StoredTensor>();
  let fileOffset = 0;
  for (const { name, shape } of tensorList(architecture)) {
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    tensors.set(name, { name, dtype: stored, shape, fileOffset, sizeBytes, fileIndex: 0 });
    fileOffset += sizeBytes;
  }
  const checkpoint: Checkpoint = {
    folder: path,
    config,
    generationConfig: {},
    files: [`${basename(path, '.json')}.safetensors`],
    fileStates: [],
    totalBytes: fileOffset,
    tensors,
    unfound: new Map(),
    repeated: new Map(),
    find: (name) => tensors.get(name),
  };
  return { checkpoint, model: bindModel(architecture, checkpoint).model, warnings: [] };
}

/** The type that the configuration names, in the key of either generation; bfloat16 where it names none. */
export function shapeType(config: JsonObject): TypeName {
  const named = config.dtype ?? config.torch_dtype;
  return named === 'float16' || named === 'float32' ? named : 'bfloat16';
}
