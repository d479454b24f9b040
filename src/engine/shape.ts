// A model from its shape alone: configuration in, extents laid end to end in a file that does not exist.

import { basename } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { tensorBytes } from '../dummy/values.js';
import type { JsonObject } from '../files/json-file.js';
import { readDeclared } from '../formats/declared.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import type { OpenedModel } from './open-model.js';
import { SHAPE_FORMATS, type ShapeType, shapeConfig, shapeTensors, shapeType } from './shape-tensors.js';

/** Can be planned but not run. Throws BAD_CONFIG or UNSUPPORTED. @param type default the configuration's own */
export function shapeModel(
  config: JsonObject,
  path: string,
  type: ShapeType = ownType(config, path),
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

/** Throws UNSUPPORTED where a configuration alone does not tell how much of the weights is stored in which way. */
function ownType(config: JsonObject, path: string): ShapeType {
  const { method } = readDeclared(config, path);
  if (method === undefined) return shapeType(config);
  if (method === 'fp8') return method;
  throw new OperatingError(
    'UNSUPPORTED',
    `${path}: its weights are stored by ${method}, and how much of them is not told by a configuration alone: give the ` +
      `folder of the downloaded checkpoint, or --dtype with ${SHAPE_FORMATS.join(', ')} or a float type`,
  );
}

/** What plain weights may be packed as: the same model in each. None where they are stored otherwise, or by inputs. */
export function packedShapes({ checkpoint, model }: OpenedModel): { name: ShapeType; packed: OpenedModel }[] {
  const isPlain = model.blocks.every(({ matrices }) =>
    matrices.every(({ format }) => format.name === 'dense'),
  );
  if (!isPlain) return [];
  const { config, folder } = checkpoint;
  return (['int8', 'int4', 'fp8'] as const).map((name) => ({
    name,
    packed: shapeModel(config, folder, name),
  }));
}
