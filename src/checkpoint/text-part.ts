// The language model in a checkpoint that also sees or hears: its configuration, and which tensors are none of its.

import { isJsonObject, type JsonObject } from '../files/json-file.js';

/** What a wrapper's reference takes where its files say nothing. */
interface Wrapper {
  /** The type of the text part. */
  readonly text: string;
  /** Undefined where files of both kinds exist. */
  readonly tied?: boolean;
  /** Values of the text part that change a language model alone, and that the wrapper's reference does not look at. */
  readonly unread?: readonly string[];
}

const WRAPPERS: Readonly<Record<string, Wrapper>> = {
  gemma3: { text: 'gemma3_text', tied: true, unread: ['final_logit_softcapping'] },
  gemma4: { text: 'gemma4_text', tied: true },
  glm46v: { text: 'glm4v_text' },
  glm4v: { text: 'glm4v_text' },
  glm4v_moe: { text: 'glm4v_moe_text' },
  internvl: { text: 'qwen2' },
  kimi_k25: { text: 'deepseek_v3' },
  llama4: { text: 'llama4_text', tied: false },
  llava: { text: 'llama' },
  llava_next: { text: 'llama' },
  llava_onevision: { text: 'qwen2' },
  mistral3: { text: 'mistral' },
  qwen2_5_vl: { text: 'qwen2_5_vl_text' },
  qwen2_vl: { text: 'qwen2_vl_text' },
  qwen3_5: { text: 'qwen3_5_text' },
  qwen3_5_moe: { text: 'qwen3_5_moe_text' },
  qwen3_vl: { text: 'qwen3_vl_text' },
  qwen3_vl_moe: { text: 'qwen3_vl_moe_text' },
  step3p7: { text: 'step3p5', tied: false },
};

const QWEN2_VL: JsonObject = {
  vocab_size: 152064,
  hidden_size: 8192,
  intermediate_size: 29568,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
};

/** Published text parts leave out what their reference has by default, even sizes. */
const LEFT_OUT: Readonly<Record<string, JsonObject>> = {
  glm4v_text: {
    vocab_size: 151552,
    hidden_size: 4096,
    intermediate_size: 13696,
    num_hidden_layers: 40,
    num_attention_heads: 32,
    num_key_value_heads: 2,
  },
  glm4v_moe_text: {
    vocab_size: 151424,
    hidden_size: 4096,
    num_hidden_layers: 46,
    num_attention_heads: 96,
    num_key_value_heads: 8,
  },
  qwen2_vl_text: QWEN2_VL,
  qwen2_5_vl_text: QWEN2_VL,
  qwen3_vl_text: {
    vocab_size: 151936,
    hidden_size: 4096,
    intermediate_size: 22016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
  },
  qwen3_vl_moe_text: {
    vocab_size: 151936,
    hidden_size: 2048,
    num_hidden_layers: 24,
    num_attention_heads: 16,
  },
  gemma3_text: {
    vocab_size: 262208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
  },
  llama: {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
  },
  mistral: {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
  },
};

/** Values that stand beside the text part or in it; the first that is there counts. */
const BESIDE = ['quantization_config', 'compression_config', 'quantization', 'dtype', 'torch_dtype'] as const;

export interface TextPart {
  /** As of a language model alone. */
  readonly config: JsonObject;
  /** What holds it; undefined where the checkpoint is a language model alone. */
  readonly wrapper: string | undefined;
}

export function textPart(config: JsonObject): TextPart {
  const type = config.model_type;
  const wrapper = typeof type === 'string' && Object.hasOwn(WRAPPERS, type) ? WRAPPERS[type] : undefined;
  const inner = innerConfig(config, wrapper);
  if (!wrapper || typeof type !== 'string' || !inner) return { config, wrapper: undefined };
  const named = typeof inner.model_type === 'string' ? inner.model_type : wrapper.text;
  const text: Record<string, unknown> = { ...LEFT_OUT[named], ...inner, model_type: named };
  for (const key of BESIDE) text[key] = config[key] ?? inner[key];
  text.tie_word_embeddings = tieOf(config, inner, wrapper);
  return { config: text, wrapper: type };
}

/** Qwen2-VL's first files have the text part's values beside those of the whole. */
function innerConfig(config: JsonObject, wrapper: Wrapper | undefined): JsonObject | undefined {
  if (isJsonObject(config.text_config)) return config.text_config;
  if (!wrapper || typeof config.hidden_size !== 'number') return undefined;
  const { model_type: _, ...values } = config;
  return values;
}

/** Undefined where the files tell: neither says anything, or each another thing. */
function tieOf(outer: JsonObject, inner: JsonObject, { tied }: Wrapper): unknown {
  const said = [outer, inner].flatMap((one) => one.tie_word_embeddings ?? []);
  return new Set(said).size > 1 ? undefined : (said[0] ?? tied);
}

/** Names of values in the text part that the wrapper's reference passes over, and a language model's does not. */
export function unreadInside(wrapper: string): readonly string[] {
  return (Object.hasOwn(WRAPPERS, wrapper) && WRAPPERS[wrapper]?.unread) || [];
}

/** Prefixes of tensors' names in such checkpoints: as published, and as transformers 5 saves them. */
export const WRAPPED_PREFIXES = [
  'language_model.model.',
  'model.language_model.',
  'model.language_model.model.',
  'language_model.',
  'model.',
] as const;

/** Where those of pictures and sound begin. */
const OF_OTHER_SENSES =
  /^(?:model\.)?(?:vision\w*|visual|audio\w*|embed_vision|embed_audio|multi_modal_projector|mm_projector|vit_\w+|image_newline|patch_merg\w+|sound\w*|video\w*)(?:\.|$)/;
/** Layers that only predict further tokens. */
const FURTHER_TOKENS = /(?:^|\.)(?:mtp|mtp_block|nextn|nextn_predict_layers)\./;
const BLOCK = /(?:^|\.)layers\.(\d+)\./;

/** What such a layer has and no other: a projection of two hidden states, which are normed apart. */
const OF_FURTHER_TOKENS = /\.(eh_proj|enorm|hnorm|e_norm|h_norm|emb_norm|hidden_norm)\./;

/** A configuration's layers that only predict further tokens stand behind its own, under the names that more layers would have. */
function isLayerAhead(config: JsonObject): (name: string) => boolean {
  const { config: text } = textPart(config);
  const [layers, ahead] = [text.num_hidden_layers, text.num_nextn_predict_layers];
  if (typeof layers !== 'number' || typeof ahead !== 'number') return () => false;
  return (name) => {
    const block = Number(BLOCK.exec(name)?.[1] ?? -1);
    return block >= layers && block < layers + ahead;
  };
}

/** Whether a tensor is not the language model's own, so that it need not be there at all. */
export function isLeftOut(config: JsonObject): (name: string) => boolean {
  const { wrapper } = textPart(config);
  const isAhead = isLayerAhead(config);
  return (name) =>
    FURTHER_TOKENS.test(name) || (wrapper !== undefined && OF_OTHER_SENSES.test(name)) || isAhead(name);
}

/** The same where all names are known: layers that have nothing to predict further tokens with are some of the model's own. */
export function leftOutOf(config: JsonObject, names: Iterable<string>): (name: string) => boolean {
  const isAhead = isLayerAhead(config);
  const ahead = [...names].filter(isAhead);
  const isLeft = isLeftOut(config);
  if (ahead.length === 0 || ahead.some((name) => OF_FURTHER_TOKENS.test(name))) return isLeft;
  return (name) => isLeft(name) && !isAhead(name);
}
