// All architectures, and the step from a configuration to one of them. A new one is one line here.

import { OperatingError } from '../../offload/index.js';
import { ConfigReader } from '../checkpoint/config-reader.js';
import { whyUnknown } from '../checkpoint/unreadable.js';
import { show } from '../files/json-file.js';
import { readDeclared } from '../formats/declared.js';
import { type Architecture, type ArchitectureModel, storedShape, type TensorDef } from './architecture.js';
import { bloom } from './bloom.js';
import { falcon } from './falcon.js';
import { gemma2 } from './gemma2.js';
import { gptNeo } from './gpt-neo.js';
import { gptNeox } from './gpt-neox.js';
import { gptOss } from './gpt-oss.js';
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
  gptOss,
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
    const why = whyUnknown(config, modelType);
    throw new OperatingError(
      'UNSUPPORTED',
      `${path}: model_type ${show(modelType)} is not supported${why ? `, since ${why}` : ''}; supported: ${known}`,
    );
  }
  readDeclared(config, path); // which refuses weights that are stored as nobody here reads them
  return architecture.build(reader);
}

export interface ListedTensor {
  /** With the model's prefix. */
  readonly name: string;
  /** As it is stored where values are. */
  readonly shape: readonly number[];
  /** The definition, where a block has it. */
  readonly inBlock?: TensorDef;
}

/** Every tensor that a checkpoint of this architecture holds; what a random checkpoint is made of. */
export function tensorList(model: ArchitectureModel): ListedTensor[] {
  const prefix = model.prefixes[0] ?? '';
  const listed = (def: TensorDef) => ({ name: `${prefix}${def.name}`, shape: storedShape(def) });
  const named: ListedTensor[] = [...model.tables, ...model.fixed].map(listed);
  for (let index = 0; index < model.blockCount; index++) {
    named.push(...model.block(index).map((def) => ({ ...listed(def), inBlock: def })));
  }
  const { projection, bias, tied } = model.head;
  if (!tied) named.push({ name: projection.name, shape: projection.shape });
  if (bias) named.push({ name: bias.name, shape: bias.shape });
  return named;
}
