// A model from its shape alone: configuration in, extents laid end to end in a file that does not exist.

import { basename } from 'node:path';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { tensorBytes } from '../dummy/values.js';
import type { JsonObject } from '../files/json-file.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import type { OpenedModel } from './open-model.js';
import { type ShapeType, shapeConfig, shapeTensors, shapeType } from './shape-tensors.js';

/** Can be planned but not run. Throws BAD_CONFIG or UNSUPPORTED. @param type default the configuration's own */
export function shapeModel(
  config: JsonObject,
  path: string,
  type: ShapeType = shapeType(config),
): OpenedModel {
  const architecture = buildArchitecture(config, path);
  const tensors = new Map<string, StoredTensor>();
  let fileOffset = 0;
  for (const tensor of shapeTensors(architecture, type)) {
    const { name, shape, dtype } = tensor;
    const sizeBytes = tensorBytes(tensor);
    tensors.set(name, { name, dtype, shape, fileOffset, sizeBytes, fileIndex: 0 });
    fileOffset += sizeBytes;
  }
  const checkpoint: Checkpoint = {
    folder: path,
    config: shapeConfig(config, architecture, type),
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
