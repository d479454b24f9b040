// The small files beside a vocabulary: what class a tokenizer has, which tokens are special, and what cannot be followed.

import type { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../../../offload/index.js';
import { ifThere } from '../../files/if-there.js';
import { type JsonObject, readOptionalJsonObject } from '../../files/json-file.js';
import { BARE_VOCABULARIES, MERGES, RANK_FILES, WHOLE_TOKENIZER } from '../../files/tokenizer-files.js';
import { classOfFiles, type TokenizerClass, tokenizerClass } from './classes.js';
import { readSpecialTokens, type SpecialTokens } from './special-tokens.js';

/** Every file that a tokenizer may be made of, chat templates beside it; additional ones lie in a folder. */
export const TOKENIZER_FILES: readonly string[] = [
  WHOLE_TOKENIZER,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  ...BARE_VOCABULARIES,
  MERGES,
  'chat_template.jinja',
  'chat_template.json',
];
export const ADDITIONAL_TEMPLATES = 'additional_chat_templates';

export interface TokenizerSettings {
  readonly folder: string;
  readonly kind: TokenizerClass;
  /** The class that the files name, whatever is registered for the model; undefined where it is none of ours. */
  readonly ownKind: TokenizerClass | undefined;
  /** tokenizer_config.json, or an empty object. */
  readonly settings: JsonObject;
  readonly specialTokensMap: JsonObject | undefined;
  readonly addedTokens: JsonObject | undefined;
}

/** Errors: BAD_TOKENIZER, UNSUPPORTED; BAD_CONFIG or NOT_FOUND for config.json. */
export async function readTokenizerSettings(folder: string): Promise<TokenizerSettings> {
  const [tokenizerConfig, specialTokensMap, addedTokens, config] = await Promise.all([
    readOptionalJsonObject(join(folder, 'tokenizer_config.json'), 'BAD_TOKENIZER'),
    readOptionalJsonObject(join(folder, 'special_tokens_map.json'), 'BAD_TOKENIZER'),
    readOptionalJsonObject(join(folder, 'added_tokens.json'), 'BAD_TOKENIZER'),
    readOptionalJsonObject(join(folder, 'config.json'), 'BAD_CONFIG'),
  ]);
  const settings = tokenizerConfig ?? {};
  refuseSettings(settings, folder);
  const name = settings.tokenizer_class || config?.tokenizer_class;
  const modelType = typeof config?.model_type === 'string' ? config.model_type : undefined;
  const own = typeof name === 'string' ? name : undefined;
  const kind = tokenizerClass(folder, own, modelType, 'auto_map' in settings);
  return { folder, kind, ownKind: classOfFiles(own), settings, specialTokensMap, addedTokens };
}

/** @param listed `added_tokens` of tokenizer.json, which do not change what has a role, only its flags */
export function specialTokensOf(files: TokenizerSettings, listed?: readonly unknown[]): SpecialTokens {
  return readSpecialTokens({ ...files, listed }, files.kind.defaults);
}

/** Which file the vocabulary is read from, and by the rules of which class. */
export interface VocabularySource {
  readonly form: 'tokenizer.json' | 'vocab.json' | 'tokenizer.model' | 'ranks';
  readonly name: string;
  readonly kind: TokenizerClass;
}

/** Whether the folder has a vocabulary in some form that may be read. */
export async function hasTokenizer(folder: string): Promise<boolean> {
  const forms = [WHOLE_TOKENIZER, ...BARE_VOCABULARIES];
  const there = await Promise.all(forms.map((name) => entryOf(folder, name)));
  return there.some((one) => one !== undefined);
}

/** Throws BAD_TOKENIZER where there are none, or none that the class reads. */
export async function vocabularyFiles(files: TokenizerSettings): Promise<VocabularySource> {
  const { folder, kind, ownKind = kind } = files;
  const has = async (name: string) => (await entryOf(folder, name))?.isFile() ?? false;
  if (await has(WHOLE_TOKENIZER)) return { form: 'tokenizer.json', name: WHOLE_TOKENIZER, kind };
  const merges = [kind, ownKind].find((one) => one.readsMerges);
  if (merges && (await has('vocab.json')) && (await has(MERGES)))
    return { form: 'vocab.json', name: 'vocab.json', kind: merges };
  for (const name of RANK_FILES) {
    if (ownKind.ranks && (await has(name))) return { form: 'ranks', name, kind: ownKind };
  }
  if (await has('tokenizer.model')) return { form: 'tokenizer.model', name: 'tokenizer.model', kind };
  const needed = ['tokenizer.json', ...(merges ? ['vocab.json with merges.txt'] : []), 'tokenizer.model'];
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${join(folder, 'tokenizer.json')} is absent, and a ${kind.name} needs ${needed.join(' or ')}: save the ` +
      'tokenizer in its fast format (AutoTokenizer … save_pretrained writes it)',
  );
}

/**
 * Refuses a tokenizer that cannot be had from the folder, by its small files alone: nothing of a vocabulary is parsed.
 * False where the folder has no file of a tokenizer at all, as with random weights.
 * Errors: BAD_TOKENIZER, UNSUPPORTED; BAD_CONFIG or NOT_FOUND for config.json.
 */
export async function checkTokenizerFiles(folder: string): Promise<boolean> {
  const there = await Promise.all(TOKENIZER_FILES.map((name) => entryOf(folder, name)));
  if (there.every((one) => one === undefined)) return false;
  const files = await readTokenizerSettings(folder);
  specialTokensOf({ ...files, kind: (await vocabularyFiles(files)).kind });
  return true;
}

/** Settings that change texts in ways that the core cannot follow. */
function refuseSettings(settings: JsonObject, folder: string): void {
  const refuse = (key: string, what: string) => {
    throw new OperatingError(
      'UNSUPPORTED',
      `${join(folder, 'tokenizer_config.json')} sets ${key}, and ${what}: take it out to go on without it`,
    );
  };
  if (settings.split_special_tokens === true)
    refuse('split_special_tokens', 'special tokens are never taken apart here');
  if (settings.fix_mistral_regex === true)
    refuse('fix_mistral_regex', 'the pattern of tokenizer.json is used as it is stored');
  if (settings.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output === true) {
    refuse(
      'clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output',
      'texts are given as the model wrote them',
    );
  }
  const versions = settings.fast_tokenizer_files;
  if (Array.isArray(versions) && versions.some((name) => /^tokenizer\.[\d.]+\.json$/.test(String(name))))
    refuse('fast_tokenizer_files', 'tokenizer.json is the only one that is read');
}

function entryOf(folder: string, name: string): Promise<Stats | undefined> {
  const path = join(folder, name);
  return ifThere(path, stat(path));
}
