// Which rules a checkpoint's tokenizer follows: transformers (5.17) makes it by a class, and some classes replace parts of
// tokenizer.json by parts of their own.

import { OperatingError } from '../../../offload/index.js';
import type { JsonObject } from '../../files/json-file.js';

/** What a class puts in place of a part of tokenizer.json; null for none. */
export interface ClassParts {
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject;
  readonly decoder: JsonObject;
  /** Options of the BPE model. */
  readonly model: JsonObject;
}

/** Values of tokenizer_config.json with which a class is made. */
export interface ClassSettings {
  readonly addPrefixSpace: boolean | undefined;
  readonly legacy: boolean;
  readonly unkToken: string | undefined;
}

/** How texts are cut before merging, and what a class adds to the tokens of the file. */
export interface RankRules {
  readonly pattern: string;
  readonly normalizer: JsonObject | null;
  /** Tokens behind those of the file that no file names, by how many there are in the file. */
  readonly reserved: (size: number) => readonly string[];
}

export interface TokenizerClass {
  readonly name: string;
  /** Undefined where tokenizer.json counts as it stands. */
  readonly parts: ((settings: ClassSettings) => ClassParts) | undefined;
  /** Special tokens where no file names them. */
  readonly defaults: Readonly<Record<string, string>>;
  /** Reads vocab.json with merges.txt where there is no tokenizer.json. */
  readonly readsMerges: boolean;
  /** Reads SentencePiece's tokenizer.model by the rules of its own where there is no tokenizer.json, not by SentencePiece's. */
  readonly readsPieces: boolean;
  /** How tiktoken's ranks are read where there is no tokenizer.json; undefined where they are not. */
  readonly ranks: RankRules | undefined;
  /** Whether `add_bos_token` counts where no file says it. */
  readonly addsStart: boolean;
  /** The template around texts is made from `add_bos_token` and `add_eos_token`, whatever tokenizer.json has. */
  readonly ownTemplate: boolean;
  /** Special tokens are added once more at the end, as special and not normalised (`all`), or as they are (`flags`). */
  readonly addsAgain: 'all' | 'flags' | undefined;
}

export const byteLevel = (addPrefixSpace: boolean, useRegex = true): JsonObject => ({
  type: 'ByteLevel',
  add_prefix_space: addPrefixSpace,
  trim_offsets: true,
  use_regex: useRegex,
});
const BYTE_LEVEL_DECODER = byteLevel(true);
export const PLAIN_BPE: JsonObject = {
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
};
const SPACES: JsonObject = { type: 'Replace', pattern: { String: '▁' }, content: ' ' };
const STRIP_FIRST_SPACE: JsonObject = { type: 'Strip', content: ' ', start: 1, stop: 0 };
const sequence = (type: string, list: string, parts: readonly JsonObject[]): JsonObject => ({
  type,
  [list]: parts,
});

export function byteFallbackDecoder(stripsFirstSpace: boolean): JsonObject {
  const parts = [SPACES, { type: 'ByteFallback' }, { type: 'Fuse' }];
  return sequence('Sequence', 'decoders', stripsFirstSpace ? [...parts, STRIP_FIRST_SPACE] : parts);
}

const metaspace = (scheme: 'always' | 'first' | 'never'): JsonObject => ({
  type: 'Metaspace',
  replacement: '▁',
  prepend_scheme: scheme,
  split: false,
});

const qwenPattern = (marks: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?${marks ? `[\\p{L}${marks}]` : '\\p{L}'}+|\\p{N}|` +
  ` ?[^\\s\\p{L}${marks}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

function qwen(marks: string): (settings: ClassSettings) => ClassParts {
  return ({ addPrefixSpace = false }) => ({
    normalizer: { type: 'NFC' },
    preTokenizer: sequence('Sequence', 'pretokenizers', [
      { type: 'Split', pattern: { Regex: qwenPattern(marks) }, behavior: 'Isolated', invert: false },
      byteLevel(addPrefixSpace, false),
    ]),
    decoder: BYTE_LEVEL_DECODER,
    model: PLAIN_BPE,
  });
}

function byteLevelClass(normalizer: JsonObject | null): (settings: ClassSettings) => ClassParts {
  return ({ addPrefixSpace = false }) => ({
    normalizer,
    preTokenizer: byteLevel(addPrefixSpace),
    decoder: BYTE_LEVEL_DECODER,
    model: PLAIN_BPE,
  });
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/** Letters of any script but Han, capitals first, in runs that end as a word does. */
const kimiPattern = [
  '[\\p{Han}]+',
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+${contractions}?`,
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*${contractions}?`,
  '\\p{N}{1,3}',
  ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*',
  '\\s*[\\r\\n]+',
  '\\s+(?!\\S)',
  '\\s+',
].join('|');
const gpt4Pattern = (digits: string) =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const HUNYUAN_TOKENS = ['<|endoftext|>', '<|startoftext|>', '<|bos|>', '<|eos|>', '<|pad|>'];
const HUNYUAN_EXTRAS = 205;

const PLAIN: TokenizerClass = {
  name: 'TokenizersBackend',
  parts: undefined,
  defaults: {},
  readsMerges: false,
  readsPieces: false,
  ranks: { pattern: gpt4Pattern('{1,3}'), normalizer: null, reserved: () => [] },
  addsStart: false,
  ownTemplate: false,
  addsAgain: undefined,
};
const END_OF_TEXT = { unk_token: '<|endoftext|>', bos_token: '<|endoftext|>', eos_token: '<|endoftext|>' };
const QWEN = { unk_token: '<|endoftext|>', eos_token: '<|endoftext|>', pad_token: '<|endoftext|>' };
const LLAMA = { unk_token: '<unk>', bos_token: '<s>', eos_token: '</s>' };

const CLASSES: readonly TokenizerClass[] = [
  PLAIN,
  {
    ...PLAIN,
    name: 'TikTokenTokenizer', // Kimi's
    ranks: {
      pattern: kimiPattern,
      normalizer: null,
      reserved: (size) => Array.from({ length: 256 }, (_, i) => `<|reserved_token_${size + i}|>`),
    },
  },
  {
    ...PLAIN,
    name: 'HYTokenizer',
    ranks: {
      pattern: gpt4Pattern(''),
      normalizer: { type: 'NFC' },
      reserved: () => [
        ...HUNYUAN_TOKENS,
        ...Array.from({ length: HUNYUAN_EXTRAS }, (_, i) => `<|extra_${i}|>`),
      ],
    },
  },
  {
    ...PLAIN,
    name: 'GPT2Tokenizer',
    parts: byteLevelClass(null),
    defaults: END_OF_TEXT,
    readsMerges: true,
  },
  {
    ...PLAIN,
    name: 'CodeGenTokenizer',
    parts: byteLevelClass(null),
    defaults: END_OF_TEXT,
    readsMerges: true,
  },
  {
    ...PLAIN,
    name: 'GPTNeoXTokenizer',
    parts: byteLevelClass({ type: 'NFC' }),
    defaults: { ...END_OF_TEXT, pad_token: '<|padding|>' },
    readsMerges: true,
    ownTemplate: true,
  },
  {
    ...PLAIN,
    name: 'Qwen2Tokenizer',
    parts: qwen(''),
    defaults: QWEN,
    readsMerges: true,
    addsAgain: 'all',
  },
  { ...PLAIN, name: 'Qwen3_5Tokenizer', parts: qwen('\\p{M}'), defaults: QWEN },
  {
    ...PLAIN,
    name: 'CohereTokenizer',
    parts: ({ addPrefixSpace = false }) => ({
      normalizer: { type: 'NFC' },
      preTokenizer: sequence('Sequence', 'pretokenizers', [
        { type: 'Digits', individual_digits: true },
        byteLevel(addPrefixSpace),
      ]),
      decoder: BYTE_LEVEL_DECODER,
      model: PLAIN_BPE,
    }),
    defaults: {
      unk_token: '<UNK>',
      bos_token: '<BOS_TOKEN>',
      eos_token: '<|END_OF_TURN_TOKEN|>',
      pad_token: '<PAD>',
      cls_token: '<CLS>',
      sep_token: '<SEP>',
      mask_token: '<MASK_TOKEN>',
    },
    readsMerges: true,
    addsAgain: 'flags',
  },
  {
    ...PLAIN,
    name: 'LlamaTokenizer',
    parts: ({ addPrefixSpace = true, legacy }) => ({
      normalizer: null,
      preTokenizer: metaspace(addPrefixSpace ? (legacy ? 'always' : 'first') : 'never'),
      decoder: byteFallbackDecoder(addPrefixSpace),
      model: { ...PLAIN_BPE, fuse_unk: true, byte_fallback: true },
    }),
    defaults: LLAMA,
    readsPieces: true,
  },
  {
    ...PLAIN,
    name: 'CodeLlamaTokenizer',
    parts: ({ addPrefixSpace = true, unkToken = null }) => ({
      normalizer: null,
      preTokenizer: metaspace(addPrefixSpace ? 'first' : 'never'),
      decoder: byteFallbackDecoder(true),
      model: { ...PLAIN_BPE, unk_token: unkToken, fuse_unk: true, byte_fallback: true },
    }),
    defaults: {
      ...LLAMA,
      prefix_token: '▁<PRE>',
      middle_token: '▁<MID>',
      suffix_token: '▁<SUF>',
      eot_token: '▁<EOT>',
      fill_token: '<FILL_ME>',
    },
    readsPieces: true,
    addsStart: true,
  },
  {
    ...PLAIN,
    name: 'GemmaTokenizer',
    parts: ({ unkToken = null }) => ({
      normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      preTokenizer: {
        type: 'Split',
        pattern: { String: ' ' },
        behavior: 'MergedWithPrevious',
        invert: false,
      },
      decoder: byteFallbackDecoder(false),
      model: { ...PLAIN_BPE, unk_token: unkToken, fuse_unk: true, byte_fallback: true },
    }),
    defaults: {
      unk_token: '<unk>',
      bos_token: '<bos>',
      eos_token: '<eos>',
      pad_token: '<pad>',
      mask_token: '<mask>',
    },
    readsPieces: true,
  },
];

/** The class that transformers registers for a `model_type` where it is not the plain one. */
const REGISTERED: Readonly<Record<string, string>> = {
  code_llama: 'CodeLlamaTokenizer',
  codegen: 'GPT2Tokenizer',
  cohere: 'CohereTokenizer',
  cohere2: 'CohereTokenizer',
  dbrx: 'GPT2Tokenizer',
  falcon_mamba: 'GPTNeoXTokenizer',
  gemma: 'GemmaTokenizer',
  gemma2: 'GemmaTokenizer',
  gemma3: 'GemmaTokenizer',
  gemma3_text: 'GemmaTokenizer',
  gemma3n_text: 'GemmaTokenizer',
  gpt2: 'GPT2Tokenizer',
  gpt_neo: 'GPT2Tokenizer',
  gpt_neox: 'GPTNeoXTokenizer',
  gptj: 'GPT2Tokenizer',
  mpt: 'GPTNeoXTokenizer',
  olmo: 'GPTNeoXTokenizer',
  olmoe: 'GPTNeoXTokenizer',
  opt: 'GPT2Tokenizer',
  phi: 'GPT2Tokenizer',
  qwen2: 'Qwen2Tokenizer',
  qwen2_moe: 'Qwen2Tokenizer',
  qwen3: 'Qwen2Tokenizer',
  qwen3_5: 'Qwen3_5Tokenizer',
  qwen3_5_moe: 'Qwen3_5Tokenizer',
  qwen3_5_text: 'Qwen3_5Tokenizer',
  qwen3_moe: 'Qwen2Tokenizer',
  qwen3_next: 'Qwen2Tokenizer',
  starcoder2: 'GPT2Tokenizer',
};

/** Model types for which it registers the plain class, which then counts whatever class the files name. */
const REGISTERED_PLAIN: ReadonlySet<string> = new Set(
  (
    'deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 ernie4_5 ernie4_5_moe flex_olmo glm glm4 glm4_moe glm4_moe_lite ' +
    'gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared hyperclovax internlm2 jamba kimi_linear ' +
    'mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mistral3 mixtral nemotron olmo2 olmo3 ' +
    'olmo_hybrid persimmon phi3 phimoe stablelm step3p5 umt5'
  ).split(' '),
);

/** Model types whose files are known to name a wrong class. */
const WRONG_IN_FILES: ReadonlySet<string> = new Set(['qwen2']);

/** Classes with rules of their own that are not written here: encoders, and models of speech, pictures or one language. */
const OTHER_CLASSES: ReadonlySet<string> = new Set(
  (
    'Albert Bart Barthez Bartpho BertGeneration BertJapanese Bert Bertweet BigBird BioGpt BlenderbotSmall Blenderbot ' +
    'ByT5 CLIP CTRL Camembert Canine Clvp ConvBert CpmAnt Cpm DPRContextEncoder DPRQuestionEncoder DPRReader Deberta ' +
    'DebertaV2 Dia DistilBert Electra Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTSw3 ' +
    'Herbert LED Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke Lxmert M2M100 MBart50 MBart MLuke MPNet Marian MarkupLM ' +
    'Mgpstr MobileBert Mvp MyT5 Nllb Nougat OpenAIGPT PLBart Parakeet Pegasus Perceiver Phobert Pop2Piano ProphetNet ' +
    'Rag Reformer RemBert RoCBert RoFormer Roberta SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter ' +
    'SqueezeBert T5 Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLMRoberta XLM XLNet'
  )
    .split(' ')
    .map((name) => `${name}Tokenizer`),
);

/** Repositories whose class is wrong, by their cached snapshot's folder. */
const PLAIN_BY_ID = /models--deepseek-ai--deepseek-(coder-|r1-distill-llama-)/i;

/**
 * The class for a folder, as AutoTokenizer finds it. `own` is `tokenizer_class`, and `needsCode` says that the files
 * ask for code of their own (`auto_map`). Throws UNSUPPORTED for a class that is known, but not here.
 */
export function tokenizerClass(
  folder: string,
  own: string | undefined,
  modelType: string | undefined,
  needsCode: boolean,
): TokenizerClass {
  if (PLAIN_BY_ID.test(folder)) return PLAIN;
  const name = own?.replace(/Fast$/, '');
  const registered = REGISTERED[modelType ?? ''];
  const plain = REGISTERED_PLAIN.has(modelType ?? '');
  if (name === undefined) return byName(registered ?? PLAIN.name, folder);
  if (plain) return PLAIN;
  if (registered !== undefined && WRONG_IN_FILES.has(modelType ?? '')) return byName(registered, folder);
  const known = CLASSES.some((one) => one.name === name) || OTHER_CLASSES.has(name);
  if (needsCode && !known && registered === undefined && !/^(PreTrainedTokenizer|Bloom)/.test(name)) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${folder}: its tokenizer ${name} is code of its own (auto_map in tokenizer_config.json), which is not run: ` +
        'save the tokenizer in its fast format, with PreTrainedTokenizerFast as tokenizer_class',
    );
  }
  return byName(name, folder);
}

/**
 * The class that the files name, where it reads a vocabulary that the registered one does not: a bare vocabulary says nothing
 * about how texts are cut.
 */
export function classOfFiles(own: string | undefined): TokenizerClass | undefined {
  const name = own?.replace(/Fast$/, '');
  return CLASSES.find((one) => one.name === name);
}

/** Unknown names are plain, as they are in transformers. */
function byName(name: string, folder: string): TokenizerClass {
  if (OTHER_CLASSES.has(name)) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${folder}: tokenizers of class ${name} have rules that are not supported; supported: ` +
        `${CLASSES.map((one) => one.name).join(', ')}; if its tokenizer.json says all, ` +
        'set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json',
    );
  }
  return CLASSES.find((one) => one.name === name) ?? PLAIN;
}
