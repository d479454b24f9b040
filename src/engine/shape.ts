// A model from its shape alone: configuration in, extents laid end to end in a file that does not exist.

import { basename } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { textPart } from '../checkpoint/text-part.js';
import { type DummyTensor, tensorBytes } from '../dummy/values.js';
import type { JsonObject } from '../files/json-file.js';
import { readDeclared } from '../formats/declared.js';
import type { ArchitectureModel, TensorDef } from '../models/architecture.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import type { OpenedModel } from './open-model.js';
import { publishedFormat } from './published-shape.js';
import {
  SHAPE_FORMATS,
  type ShapeType,
  shapeConfig,
  shapeTensors,
  shapeType,
  storedTensors,
} from './shape-tensors.js';

/** Can be planned but not run. Throws BAD_CONFIG or UNSUPPORTED. @param type default as the configuration says */
export function shapeModel(config: JsonObject, path: string, type?: ShapeType): OpenedModel {
  const architecture = withKnownBlocks(buildArchitecture(config, path));
  if (type !== undefined) {
    return laidOut(
      architecture,
      shapeConfig(config, architecture, type),
      path,
      shapeTensors(architecture, type),
    );
  }
  const declared = readDeclared(config, path);
  const plain = shapeType(config);
  if (declared.method === undefined) {
    return laidOut(
      architecture,
      shapeConfig(config, architecture, plain),
      path,
      shapeTensors(architecture, plain),
    );
  }
  const formatOf = publishedFormat(declared, textPart(config).config);
  if (formatOf) return laidOut(architecture, config, path, storedTensors(architecture, plain, formatOf));
  throw new OperatingError(
    'UNSUPPORTED',
    `${path}: its weights are stored by ${declared.method}, and how much of them is not told by a configuration alone: give the ` +
      `folder of the downloaded checkpoint, or --dtype with ${SHAPE_FORMATS.join(', ')} or a float type`,
  );
}

/** What a block has is asked for several times, and a mixture has tens of thousands of tensors. */
function withKnownBlocks(architecture: ArchitectureModel): ArchitectureModel {
  const known = new Map<number, readonly TensorDef[]>();
  const block = (index: number) => {
    const defs = known.get(index) ?? architecture.block(index);
    known.set(index, defs);
    return defs;
  };
  return { ...architecture, block };
}

function laidOut(
  architecture: ArchitectureModel,
  config: JsonObject,
  path: string,
  list: readonly DummyTensor[],
): OpenedModel {
  const tensors = new Map<string, StoredTensor>();
  let fileOffset = 0;
  for (const tensor of list) {
    const { name, shape, dtype } = tensor;
    const sizeBytes = tensorBytes(tensor);
    tensors.set(name, { name, dtype, shape, fileOffset, sizeBytes, fileIndex: 0 });
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
