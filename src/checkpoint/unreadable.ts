// Names what a folder or repository holds where that is no checkpoint that can be read, and what to use instead.
//
// File names and configurations are enough, so models of the hub are refused before their weights are downloaded.

import { OperatingError } from '../../offload/index.js';
import { isJsonObject, type JsonObject, show } from '../files/json-file.js';
import { chooseWeights } from './weight-files.js';

export interface FolderContents {
  /** For messages: a folder, or a model's id. */
  readonly where: string;
  /** What lies in the folder; every path, where it is a repository. */
  readonly names: readonly string[];
  /** Reads one of `names`, a small JSON file. */
  readonly readJson: (name: string) => Promise<JsonObject | undefined>;
}

export const ADAPTER_CONFIG = 'adapter_config.json';

/** Marks of other kinds of repositories, the most telling first; each sentence follows the name of a file. */
const OTHER_KINDS: readonly (readonly [RegExp, string])[] = [
  [/\.gguf$/, 'GGUF weights are not read: use the checkpoint in safetensors that they were made from'],
  [/^model_index\.json$/, 'this is a pipeline of diffusers, not one language model'],
  [
    /^(config_sentence_transformers|modules)\.json$/,
    'this is a model of sentence-transformers, which makes embeddings and no text',
  ],
  [/^mlc-chat-config\.json$/, 'this was compiled for MLC: use the checkpoint that it was made from'],
  [
    /(^|\/)(params\.json|consolidated[\w.-]*\.(pth|safetensors))$/,
    'this is the format of the model’s authors: use or make the Hugging Face version, which has a config.json',
  ],
  [/\.onnx$/, 'ONNX is not read: use the checkpoint in safetensors'],
  [/\.nemo$/, 'NeMo’s format is not read: convert it to the Hugging Face format'],
  [/(^|\/)tf_model\.h5$/, 'TensorFlow weights are not read: convert them to safetensors'],
  [/(^|\/)flax_model\.msgpack$/, 'Flax weights are not read: convert them to safetensors'],
  [/\.npz$/, 'NumPy archives are not read: use the checkpoint in safetensors'],
  [
    /\.(ckpt|bin|pt|pth)$/,
    'PyTorch weights are read as pytorch_model.bin, or as shards beside its index: convert them to safetensors',
  ],
];

/** Throws UNSUPPORTED where config.json or weights that can be read are lacking and other files say why. */
export async function refuseOtherKinds({ where, names, readJson }: FolderContents): Promise<void> {
  const isCheckpoint = names.includes('config.json') && chooseWeights(names) !== undefined;
  if (isCheckpoint) return;
  if (names.includes(ADAPTER_CONFIG)) {
    const base = (await readJson(ADAPTER_CONFIG))?.base_model_name_or_path;
    const of = typeof base === 'string' && base !== '' ? ` of ${show(base)}` : '';
    throw new OperatingError(
      'UNSUPPORTED',
      `${where} has ${ADAPTER_CONFIG}: it is an adapter (LoRA or another of PEFT's)${of}, which is not applied: merge ` +
        'it into its base model (merge_and_unload) and give the merged checkpoint',
    );
  }
  for (const [pattern, problem] of OTHER_KINDS) {
    const name = names.find((candidate) => pattern.test(candidate));
    if (name !== undefined) throw new OperatingError('UNSUPPORTED', `${where} holds ${name}: ${problem}`);
  }
}

/** Configurations of quantised weights: of transformers, of llm-compressor's first versions, of MLX. */
export const QUANTISATION_KEYS = ['quantization_config', 'compression_config', 'quantization'] as const;

/** What quantisers put in the place of `NAME.weight`, or beside it. */
const QUANTISED_NAME =
  /\.(qweight|qzeros|g_idx|weight_packed|weight_quantized|W_q|SCB|codebooks|qweight_type)$|\.(weight_blocks|weight_scales)$|_(blocks|scales)$|\.(absmax|quant_map|quant_state\.[\w.]+)$/;

/** The first tensor that only quantised checkpoints have; undefined where there is none. */
export function quantisedTensor<T extends { readonly name: string }>(tensors: Iterable<T>): T | undefined {
  for (const tensor of tensors) if (QUANTISED_NAME.test(tensor.name)) return tensor;
  return undefined;
}

/** Encoders, which read a text and continue none. */
const ENCODERS =
  /^(albert|bert|bert-generation-encoder|big_bird|camembert|canine|convbert|data2vec-text|deberta|deberta-v2|distilbert|electra|ernie|esm|eurobert|flaubert|fnet|funnel|ibert|layoutlm\w*|lilt|longformer|luke|megatron-bert|mobilebert|modernbert|mpnet|mra|neobert|new|nezha|nomic_bert|nystromformer|rembert|roberta|roberta-prelayernorm|roc_bert|roformer|splinter|squeezebert|xlm|xlm-roberta|xlm-roberta-xl|xmod|yoso)$/;
const ENCODER_DECODERS =
  /^(t5|mt5|umt5|longt5|t5gemma\w*|switch_transformers|bart|mbart|plbart|mvp|pegasus\w*|marian|m2m_100|nllb-moe|led|prophetnet|blenderbot\w*|fsmt|encoder-decoder)$/;
const OF_IMAGES_OR_SOUND =
  /^(\w*clip\w*|\w*siglip\w*|vit\w*|dinov?\d?\w*|swin\w*|beit|deit|convnext\w*|resnet|detr|wav2vec2\w*|hubert|wavlm|whisper|encodec|musicgen|sam\d?|speech\w*)$/;

/** Why a `model_type` that no file in models/ has cannot run, as far as the configuration tells. */
export function whyUnknown(config: JsonObject, modelType: string): string | undefined {
  const inner = config.text_config ?? config.llm_config ?? config.language_config;
  if (isJsonObject(inner)) {
    const type = typeof inner.model_type === 'string' ? ` of type ${show(inner.model_type)}` : '';
    return `it wraps a language model${type} together with what sees or hears, and only text alone is supported`;
  }
  if (isJsonObject(config.vision_config) || isJsonObject(config.audio_config))
    return 'it reads more than text (vision_config or audio_config)';
  if (ENCODERS.test(modelType)) return 'it is an encoder, which continues no text';
  if (config.is_encoder_decoder === true || ENCODER_DECODERS.test(modelType))
    return 'it has an encoder and a decoder, and only decoders alone are supported';
  if (OF_IMAGES_OR_SOUND.test(modelType)) return 'it is no language model';
  if (isJsonObject(config.auto_map))
    return 'its code comes with the checkpoint (auto_map), and such code is never executed';
  return undefined;
}
