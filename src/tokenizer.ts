// Text to token ids and back, on the Rust core of Hugging Face tokenizers.
//
// As transformers v5 does, spaces before punctuation are left as decoded: `clean_up_tokenization_spaces`, which v4
// applied for some models, changes text that the model did not write, and is not applied.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Tokenizer as RustTokenizer } from 'tokenizers';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, type JsonObject, readOptionalJsonObject, reason, systemCode } from './json-file.js';
import { checkForCore, sectionOf } from './tokenizer-file.js';

export interface Tokenizer {
  /** With added tokens. The model's own vocabulary may be padded to more. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  /** Every id that ends a text: those of generation_config.json, config.json and tokenizer_config.json. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | undefined;
  /** With the special tokens that the checkpoint puts around a text. `<s>` within a text is that token, too. */
  encode(text: string): Promise<number[]>;
  encodeBatch(texts: readonly string[]): Promise<number[][]>;
  /** Without special tokens around it: for text that has them written out. */
  encodeBare(text: string): Promise<number[]>;
  /** Ids that the tokenizer does not know (a padded vocabulary has some) give no text. */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  isSpecial(id: number): boolean;
}

/** Special tokens around every text. */
interface Surround {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/**
 * Loads tokenizer.json and the names of its special tokens from `folder`.
 * Errors: BAD_TOKENIZER; BAD_CONFIG or NOT_FOUND for the configuration files beside it.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, 'tokenizer.json');
  const [text, settings, config, generationConfig] = await Promise.all([
    readTokenizerFile(path),
    readOptionalJsonObject(join(folder, 'tokenizer_config.json'), 'BAD_TOKENIZER'),
    readOptionalJsonObject(join(folder, 'config.json'), 'BAD_CONFIG'),
    readOptionalJsonObject(join(folder, 'generation_config.json'), 'BAD_CONFIG'),
  ]);
  const rust = await parse(text, path);
  // A length or padding stored by the training run would silently cut or fill prompts.
  rust.disableTruncation();
  rust.disablePadding();
  const special = specialTokens(text);
  const decoder = rust.getDecoder();
  const ids = specialIds(rust, settings ?? {}, config ?? {}, generationConfig ?? {});
  const { before, after } = await surround(rust, settings ?? {}, ids.bosTokenId, path);
  const encodeBatch = async (texts: readonly string[]): Promise<number[][]> => {
    const encodings = await rust.encodeBatch([...texts], { addSpecialTokens: false });
    return encodings.map((encoding) => [...before, ...encoding.getIds(), ...after]);
  };
  return {
    ...ids,
    vocabSize: rust.getVocabSize(true),
    encodeBatch,
    encode: async (one) => {
      const encoding = await rust.encode(one, null, { addSpecialTokens: false });
      return [...before, ...encoding.getIds(), ...after];
    },
    encodeBare: async (one) => (await rust.encode(one, null, { addSpecialTokens: false })).getIds(),
    isSpecial: (id) => special.has(id),
    // The library's own decode does the same three steps, but only asynchronously.
    decode: (tokenIds, { skipSpecialTokens = true } = {}) => {
      const tokens: string[] = [];
      for (const id of tokenIds) {
        const token = skipSpecialTokens && special.has(id) ? null : rust.idToToken(id);
        if (token !== null) tokens.push(token);
      }
      return decoder ? decoder.decode(tokens) : tokens.join(' ');
    },
  };
}

async function readTokenizerFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new OperatingError(
      'BAD_TOKENIZER',
      systemCode(error) === 'ENOENT'
        ? `${path} is absent: save the tokenizer in its fast format (AutoTokenizer … save_pretrained writes it)`
        : `${path} cannot be read: ${reason(error)}`,
      { cause: error },
    );
  }
}

async function parse(text: string, path: string): Promise<RustTokenizer> {
  // Loaded here because it costs some 25 ms, which commands that need no tokens should not pay.
  const { Tokenizer: Rust } = await import('tokenizers');
  checkForCore(text, path);
  try {
    return Rust.fromString(text);
  } catch (error) {
    throw new OperatingError('BAD_TOKENIZER', `${path} is malformed: ${reason(error)}`, { cause: error });
  }
}

/** Ids of the tokens marked special. */
function specialTokens(tokenizerJson: string): ReadonlySet<number> {
  const list = sectionOf(tokenizerJson, 'added_tokens');
  const ids = (Array.isArray(list) ? list : []).map((token: unknown) =>
    isJsonObject(token) && token.special === true ? token.id : undefined,
  );
  return new Set(ids.filter((id) => typeof id === 'number'));
}

function specialIds(rust: RustTokenizer, settings: JsonObject, config: JsonObject, generation: JsonObject) {
  const named = (key: string) => tokenId(rust, settings[`${key}_token`]);
  const first = (key: string) =>
    named(key) ?? idList(generation[`${key}_token_id`])[0] ?? idList(config[`${key}_token_id`])[0];
  const eos = named('eos');
  const eosTokenIds = new Set([
    ...idList(generation.eos_token_id),
    ...idList(config.eos_token_id),
    ...(eos === undefined ? [] : [eos]),
  ]);
  return { bosTokenId: first('bos'), eosTokenIds: [...eosTokenIds], padTokenId: first('pad') };
}

/** A special token is written as its text, or as an object that has the text as `content`. */
function tokenId(rust: RustTokenizer, token: unknown): number | undefined {
  const text = isJsonObject(token) ? token.content : token;
  return typeof text === 'string' ? (rust.tokenToId(text) ?? undefined) : undefined;
}

/** One id, a list of ids, or null for none. Negative ids occur in old files and mean none. */
function idList(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => Number.isSafeInteger(id) && Number(id) >= 0);
}

/** What tokenizer.json's post-processor adds, unless tokenizer_config.json says for an end whether to add or not. */
async function surround(
  rust: RustTokenizer,
  settings: JsonObject,
  bosTokenId: number | undefined,
  path: string,
): Promise<Surround> {
  const encoding = await rust.encode('a', null, { addSpecialTokens: true });
  const ids = encoding.getIds();
  const added = encoding.getSpecialTokensMask();
  const textBegin = added.indexOf(0);
  const before = ids.slice(0, textBegin < 0 ? ids.length : textBegin);
  const after = ids.slice(textBegin < 0 ? ids.length : added.lastIndexOf(0) + 1);
  const decided = (key: 'bos' | 'eos', stored: number[], id: number | undefined): readonly number[] => {
    const wish = settings[`add_${key}_token`];
    if (typeof wish !== 'boolean') return stored;
    if (!wish) return stored.filter((one) => one !== id);
    if (id !== undefined)
      return stored.includes(id) ? stored : key === 'bos' ? [id, ...stored] : [...stored, id];
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path} has no token for add_${key}_token of tokenizer_config.json`,
    );
  };
  return {
    before: decided('bos', before, bosTokenId),
    after: decided('eos', after, tokenId(rust, settings.eos_token)),
  };
}
