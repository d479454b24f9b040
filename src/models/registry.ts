// All architectures, and the step from a configuration to one of them. A new one is one line here.

import { OperatingError } from '../../offload/index.js';
import { ConfigReader, type DeviceShare } from '../checkpoint/config-reader.js';
import { textPart, unreadInside, WRAPPED_PREFIXES } from '../checkpoint/text-part.js';
import { whyUnknown } from '../checkpoint/unreadable.js';
import { show } from '../files/json-file.js';
import { readDeclared } from '../formats/declared.js';
import {
  type Architecture,
  type ArchitectureModel,
  chooseWay,
  storedShape,
  type TensorDef,
} from './architecture.js';
import { bailing } from './bailing.js';
import { bloom } from './bloom.js';
import { cohere, cohere2 } from './cohere.js';
import { deepseekV2, deepseekV3, deepseekV32, glm4MoeLite, glmMoeDsa, mistral4 } from './deepseek.js';
import { deepseekV4 } from './deepseek-v4.js';
import { dots1 } from './dots1.js';
import { ernie, ernieMoe } from './ernie.js';
import { exaone4 } from './exaone4.js';
import { falcon } from './falcon.js';
import { gemma, gemma2, gemma3 } from './gemma.js';
import { gemma4 } from './gemma4.js';
import { glm, glm4, glm4v } from './glm.js';
import { glm4Moe, glm4vMoe } from './glm4-moe.js';
import { gptBigcode } from './gpt-bigcode.js';
import { gptNeo } from './gpt-neo.js';
import { gptNeox } from './gpt-neox.js';
import { gptOss } from './gpt-oss.js';
import { gpt2 } from './gpt2.js';
import { gptj } from './gptj.js';
import { granite, graniteMoe } from './granite.js';
import { graniteHybrid } from './granite-hybrid.js';
import { hunyuanDense } from './hunyuan-dense.js';
import { hunyuanMoe } from './hunyuan-moe.js';
import { hyV3 } from './hy-v3.js';
import { llama } from './llama.js';
import { llama4 } from './llama4.js';
import { mimoV2Flash } from './mimo.js';
import { minimaxM2 } from './minimax-m2.js';
import { ministral3 } from './ministral3.js';
import { mistral } from './mistral.js';
import { mixtral } from './mixtral.js';
import { mpt } from './mpt.js';
import { nemotron } from './nemotron.js';
import { nemotronH } from './nemotron-h.js';
import { olmo2, olmo3, olmoe } from './olmo.js';
import { opt } from './opt.js';
import { phi } from './phi.js';
import { phi3 } from './phi3.js';
import { phimoe } from './phimoe.js';
import { qwen2, qwen2Vl } from './qwen2.js';
import { qwen3, qwen3Vl } from './qwen3.js';
import { qwen2Moe, qwen3Moe, qwen3VlMoe } from './qwen3-moe.js';
import { qwen3Next, qwen35, qwen35Moe } from './qwen3-next.js';
import { seedOss } from './seed-oss.js';
import { smollm3 } from './smollm3.js';
import { starcoder2 } from './starcoder2.js';
import { step } from './step.js';

export const ARCHITECTURES: readonly Architecture[] = [
  bailing,
  bloom,
  cohere,
  cohere2,
  deepseekV2,
  deepseekV3,
  deepseekV32,
  deepseekV4,
  dots1,
  ernie,
  ernieMoe,
  exaone4,
  falcon,
  gemma,
  gemma2,
  gemma3,
  gemma4,
  glm,
  glm4,
  glm4Moe,
  glm4MoeLite,
  glm4v,
  glm4vMoe,
  glmMoeDsa,
  gpt2,
  gptBigcode,
  gptNeo,
  gptNeox,
  gptj,
  gptOss,
  granite,
  graniteHybrid,
  graniteMoe,
  hunyuanDense,
  hunyuanMoe,
  hyV3,
  llama,
  llama4,
  mimoV2Flash,
  minimaxM2,
  ministral3,
  mistral,
  mistral4,
  mixtral,
  mpt,
  nemotron,
  nemotronH,
  olmo2,
  olmo3,
  olmoe,
  opt,
  phi,
  phi3,
  phimoe,
  qwen2,
  qwen2Moe,
  qwen2Vl,
  qwen3,
  qwen3Moe,
  qwen3Next,
  qwen3Vl,
  qwen3VlMoe,
  qwen35,
  qwen35Moe,
  seedOss,
  smollm3,
  starcoder2,
  step,
];

/**
 * The architecture that config.json names, applied to it. Throws BAD_CONFIG or UNSUPPORTED.
 * @param share of several devices that compute together; default all of it
 */
export function buildArchitecture(
  config: Readonly<Record<string, unknown>>,
  path: string,
  share?: DeviceShare,
): ArchitectureModel {
  const { config: text, wrapper } = textPart(config);
  const reader = new ConfigReader(text, wrapper === undefined ? path : `${path}: text_config`, share);
  const modelType = reader.text(['model_type']);
  const architecture = ARCHITECTURES.find(({ modelTypes }) => modelTypes.includes(modelType));
  if (!architecture) {
    const why = wrapper === undefined ? whyUnknown(config, modelType) : `it is the text part of ${wrapper}`;
    throw new OperatingError(
      'UNSUPPORTED',
      `${path}: model_type ${show(modelType)} is not supported${why ? `, since ${why}` : ''}; supported: ${supportedLike(modelType)}`,
    );
  }
  if (share && !architecture.isShareable) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${path}: several devices cannot compute a model of type ${show(modelType)} together: give --parallel streams, or leave it out`,
    );
  }
  readDeclared(config, path); // which refuses weights that are stored as nobody here reads them
  if (wrapper !== undefined) reader.refuseUnless(null, ...unreadInside(wrapper));
  const model = architecture.build(reader);
  return wrapper === undefined ? model : inside(model, text.tie_word_embeddings === undefined);
}

/** Types of the same first word, or the first words of all: together the types would be longer than a message. */
function supportedLike(modelType: string): string {
  const firstWord = (type: string) => /^[a-z]*/i.exec(type)?.[0] ?? '';
  const types = ARCHITECTURES.flatMap((architecture) => architecture.modelTypes);
  const near = types.filter((type) => firstWord(type) === firstWord(modelType));
  const listed = near.length > 0 ? near : [...new Set(types.map((type) => `${firstWord(type)}…`))];
  return `${listed.join(', ')}${near.length > 0 ? ', and others' : ''} (README.md has all)`;
}

/**
 * The same within a wrapper's checkpoint.
 * @param isTieUnknown the files do not say whether the head is the token table: it is where they hold no other
 */
function inside(model: ArchitectureModel, isTieUnknown: boolean): ArchitectureModel {
  const prefixes = [...new Set([...WRAPPED_PREFIXES, ...model.prefixes])];
  const table = model.tables.find(({ rowsFrom }) => rowsFrom === 'token');
  if (!isTieUnknown || !table) return { ...model, prefixes };
  const { projection } = model.head;
  const elsewhere = [
    ...(projection.elsewhere ?? []),
    { name: table.name, shape: table.shape, firstElement: 0 },
  ];
  return {
    ...model,
    prefixes,
    head: { ...model.head, projection: { ...projection, elsewhere }, tied: false },
  };
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
    const defs = chooseWay(model.block(index), () => false);
    named.push(...defs.map((def) => ({ ...listed(def), inBlock: def })));
  }
  const { projection, bias, tied } = model.head;
  if (!tied) named.push({ name: projection.name, shape: projection.shape });
  if (bias) named.push({ name: bias.name, shape: bias.shape });
  return named;
}
