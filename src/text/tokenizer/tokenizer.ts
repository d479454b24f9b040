// Text to token ids and back, on the Rust core of Hugging Face tokenizers.
//
// As transformers v5 does, spaces before punctuation are left as decoded: `clean_up_tokenization_spaces`, which v4
// applied for some models, changes text that the model did not write, and is not applied.

import { join } from 'node:path';
import type { Encoding } from 'tokenizers';
import { OperatingError } from '../../../offload/index.js';
import { readOptionalJsonObject } from '../../files/json-file.js';
import { buildTokenizer } from './build.js';
import { configuredRole } from './ending-ids.js';
import { readTokenizerSettings } from './settings.js';
import { tokenBytes } from './token-bytes.js';
import { byteName, hiddenName, shownName, spellUnknown } from './unknown-text.js';

export interface Tokenizer {
  /** With added tokens. The model's own vocabulary may be padded to more. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  /**
   * Every id that ends a text: those of generation_config.json; of config.json where there is no such file; the
   * tokenizer's end token where the file that decides names none.
   */
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
  /** The byte that a token stands for where characters without a token are spelt in bytes; undefined for others. */
  byteOf(id: number): number | undefined;
  /** What a token adds to a text that has begun; undefined for special tokens, and for ids that the tokenizer does not know. */
  bytesOf(id: number): Uint8Array | undefined;
}

/**
 * Loads a tokenizer as transformers' AutoTokenizer does.
 * Errors: BAD_TOKENIZER, UNSUPPORTED; BAD_CONFIG or NOT_FOUND for the configuration files beside it. Its methods throw
 * BAD_INPUT for a text that is none.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const [files, config, generation] = await Promise.all([
    readTokenizerSettings(folder),
    readOptionalJsonObject(join(folder, 'config.json'), 'BAD_CONFIG'),
    readOptionalJsonObject(join(folder, 'generation_config.json'), 'BAD_CONFIG'),
  ]);
  const { rust, named, specialIds, spellsBytes, prepare, unknown, ...built } = await buildTokenizer(files);
  const decoder = rust.getDecoder();
  const bytes = spellsBytes ? byteTokens((token) => rust.tokenToId(token)) : undefined;
  const idOf = (role: string) => rust.tokenToId(named.get(role)?.content ?? '') ?? undefined;
  const configured = (role: 'bos' | 'eos' | 'pad') => configuredRole(generation, config ?? {}, role);
  const own = (role: string) => [idOf(role)].filter((id) => id !== undefined);
  const eos = configured('eos');
  // Text that asks CodeLlama to fill a gap would have to be taken apart at this token.
  const gap = files.kind.name === 'CodeLlamaTokenizer' ? named.get('fill_token')?.content : undefined;
  const encodeWith = async (text: string, addSpecialTokens: boolean): Promise<number[]> => {
    checkText(text, gap);
    const prepared = prepare(text);
    return idsOf(await rust.encode(prepared, null, { addSpecialTokens }), prepared);
  };
  const idsOf = (encoding: Encoding, text: string) => {
    const ids = unknown ? spellUnknown(encoding, text, unknown) : encoding.getIds();
    weigh(ids.length);
    return ids;
  };
  const decodeNames = (tokens: string[]) => (decoder ? decoder.decode(tokens) : tokens.join(' '));
  const bytesOf = tokenBytes({
    decoder: built.decoder,
    nameOf: (id) => {
      const name = rust.idToToken(id);
      return name === null ? null : shownName(name);
    },
    isSpecial: (id) => specialIds.has(id),
    byteOf: (id) => bytes?.get(id),
    decode: decodeNames,
  });
  return {
    vocabSize: rust.getVocabSize(true),
    bosTokenId: idOf('bos_token') ?? configured('bos')[0],
    eosTokenIds: [...new Set(eos.length > 0 ? eos : own('eos_token'))],
    padTokenId: idOf('pad_token') ?? configured('pad')[0],
    encodeBatch: async (texts) => {
      for (const text of texts) checkText(text, gap);
      const prepared = texts.map(prepare);
      const encodings = await rust.encodeBatch(prepared, { addSpecialTokens: true });
      return encodings.map((encoding, index) => idsOf(encoding, prepared[index] ?? ''));
    },
    encode: (text) => encodeWith(text, true),
    encodeBare: (text) => encodeWith(text, false),
    isSpecial: (id) => specialIds.has(id),
    byteOf: (id) => bytes?.get(id),
    // The library's own decode does the same three steps, but only asynchronously.
    decode: (tokenIds, { skipSpecialTokens = true } = {}) => {
      const tokens: string[] = [];
      for (const id of tokenIds) {
        const token = skipSpecialTokens && specialIds.has(id) ? null : rust.idToToken(id);
        if (token !== null) tokens.push(shownName(token));
      }
      return decodeNames(tokens);
    },
    bytesOf,
  };
}

/** What the core keeps of a token of an encoding, most of all its name: some hundred bytes in several pieces. */
const ENCODED_TOKEN_BYTES = 1 << 10;
/** Encodings of fewer are no matter. */
const FEW_TOKENS = 256;

/**
 * An encoding is freed when JavaScript collects the little that it has of it. Of a long text that came so seldom that a million
 * tokens were freed at once, which held up the event loop for 110 ms of 130 (4 MiB, 2026-11-30). As much memory that JavaScript
 * knows of, and nobody touches, has it collect a few encodings at a time.
 */
function weigh(tokens: number): Buffer | undefined {
  return tokens < FEW_TOKENS ? undefined : Buffer.allocUnsafeSlow(tokens * ENCODED_TOKEN_BYTES);
}

/** The tokens `<0x00>` to `<0xFF>`, by id. */
function byteTokens(idOf: (token: string) => number | null): ReadonlyMap<number, number> {
  const found = new Map<number, number>();
  for (let byte = 0; byte < 256; byte++) {
    const digits = byte.toString(16).padStart(2, '0');
    for (const token of [`<0x${digits}>`, byteName(byte), hiddenName(byteName(byte))]) {
      const id = idOf(token);
      if (id !== null) found.set(id, byte);
    }
  }
  return found;
}

/** Half of a surrogate pair is no character: the core would silently take another in its place. */
const LONE_SURROGATE = /\p{Surrogate}/u;

function checkText(text: string, gap: string | undefined): void {
  const lone = LONE_SURROGATE.exec(text);
  if (lone) {
    const code = lone[0].charCodeAt(0).toString(16).toUpperCase();
    throw new OperatingError(
      'BAD_INPUT',
      `the text has half a character, U+${code}, at ${lone.index}: it is no Unicode text; take it out`,
    );
  }
  if (gap === undefined || !text.includes(gap)) return;
  throw new OperatingError(
    'BAD_INPUT',
    `the text has ${gap}, which asks the model to fill a gap, and that is not supported: write the text up to the gap`,
  );
}
