// Makes the Rust core's tokenizer: from tokenizer.json, as it stands or with the parts of its class, or from a bare
// vocabulary in one of its forms; then adds the tokens that the other files name, in the order in which transformers numbers them.

import { join } from 'node:path';
import type { Tokenizer as RustTokenizer } from 'tokenizers';
import { OperatingError } from '../../../offload/index.js';
import {
  isJsonObject,
  type JsonObject,
  MOST_JSON_BYTES,
  parseJsonObject,
  reason,
  show,
} from '../../files/json-file.js';
import { readSmallFile } from '../../files/regular-file.js';
import type { ClassParts, TokenizerClass } from './classes.js';
import { checkForCore, hasSection, modelType, sectionOf, withParts } from './file.js';
import { rankJson, readRanks, withReserved } from './ranks.js';
import { definedPieces, pieceJson, pieceTexts, wordsOf } from './sentencepiece.js';
import { type PieceModel, readPieceModel } from './sentencepiece-model.js';
import {
  specialTokensOf,
  type TokenizerSettings,
  type VocabularySource,
  vocabularyFiles,
} from './settings.js';
import type { AddedToken, SpecialTokens } from './special-tokens.js';
import { boundTokenizerThreads } from './threads.js';
import { byteName, hiddenName, type UnknownText } from './unknown-text.js';

export interface BuiltTokenizer {
  readonly rust: RustTokenizer;
  readonly named: SpecialTokens['named'];
  /** Ids that are left out of texts. */
  readonly specialIds: ReadonlySet<number>;
  /** Characters without a token are spelt in bytes, each a token. */
  readonly spellsBytes: boolean;
  /** How its file says that tokens become text, as JSON. */
  readonly decoder: string;
  /** What a text becomes before the core sees it. */
  readonly prepare: (text: string) => string;
  /** Set where that is not the core's work. */
  readonly unknown: UnknownText | undefined;
}

/** What a vocabulary's files say. */
interface Vocabulary {
  readonly json: string;
  readonly path: string;
  /** Tokens that the core has from `json` itself. */
  readonly listed: readonly AddedToken[];
  readonly tokens: SpecialTokens;
  /** `add_bos_token` and `add_eos_token` of tokenizer_config.json count: no tokenizer.json says it better. */
  readonly bare: boolean;
  /** What a text becomes before the core sees it; absent where that is the text. */
  readonly prepare?: (text: string) => string;
  /** The piece of unknown text, where the core does not spell it in bytes. */
  readonly unknownPiece?: string | undefined;
}

/** Errors: BAD_TOKENIZER, UNSUPPORTED. */
export async function buildTokenizer(settings: TokenizerSettings): Promise<BuiltTokenizer> {
  const source = await vocabularyFiles(settings);
  const files = { ...settings, kind: source.kind };
  const vocabulary = await readVocabulary(files, source);
  // Loaded here because it costs some 25 ms, which commands that need no tokens should not pay.
  boundTokenizerThreads();
  const core = await import('tokenizers');
  checkForCore(vocabulary.json, vocabulary.path);
  let rust: RustTokenizer;
  try {
    rust = core.Tokenizer.fromString(vocabulary.json);
  } catch (error) {
    throw new OperatingError('BAD_TOKENIZER', `${vocabulary.path} is malformed: ${reason(error)}`, {
      cause: error,
    });
  }
  // A length or padding stored by the training run would silently cut or fill prompts.
  rust.disableTruncation();
  rust.disablePadding();
  const { tokens, listed } = vocabulary;
  const special = new Set(listed.filter((token) => token.special).map(({ content }) => content));
  const add = (list: readonly AddedToken[]) => {
    const made = list.map(
      ({ content, special, lstrip, rstrip, normalized, singleWord }) =>
        new core.AddedToken(content, special, {
          leftStrip: lstrip,
          rightStrip: rstrip,
          normalized,
          singleWord,
        }),
    );
    if (made.length > 0) rust.addAddedTokens(made);
    for (const token of list) if (token.special) special.add(token.content);
  };
  add(tokensToAdd(tokens, listed));
  add(addedAgain(files.kind, tokens));
  const around = surround(files, vocabulary);
  if (around) setTemplate(rust, core.templateProcessing, around, vocabulary.path);
  // The core asks for the token as it shows it, which a normaliser may have changed.
  const isSpecial = (id: number | null): id is number => id !== null && special.has(rust.idToToken(id) ?? '');
  const ids = [...special].map((content) => rust.tokenToId(content)).filter(isSpecial);
  const decoder = JSON.stringify(sectionOf(vocabulary.json, 'decoder') ?? null);
  const spellsBytes = decoder.includes('"ByteFallback"');
  const { prepare = (text: string) => text } = vocabulary;
  const unknown = unknownText(rust, vocabulary);
  return { rust, named: tokens.named, specialIds: new Set(ids), decoder, spellsBytes, prepare, unknown };
}

function unknownText(rust: RustTokenizer, { unknownPiece: name }: Vocabulary): UnknownText | undefined {
  const id = name === undefined ? null : rust.tokenToId(name);
  if (name === undefined || id === null) return undefined;
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    const piece = byteName(byte);
    return rust.tokenToId(hiddenName(piece)) ?? rust.tokenToId(piece) ?? undefined;
  });
  return { id, name, bytes };
}

/** New ones get the next ids in this order; those that are there already take on the flags. */
function tokensToAdd(tokens: SpecialTokens, listed: readonly AddedToken[]): AddedToken[] {
  const roles = new Set([...tokens.named.values()].map(({ content }) => content));
  const list = [...tokens.added].sort(([a], [b]) => a - b).map(([, token]) => token);
  const there = new Set([...listed, ...list].map(({ content }) => content));
  // One that is named twice takes on the flags of the last.
  const others = [...tokens.named.values(), ...tokens.extra].filter(({ content }) => !there.has(content));
  list.push(...others);
  return list.map((token) => (roles.has(token.content) ? { ...token, special: true } : token));
}

function addedAgain(kind: TokenizerClass, { named, extra }: SpecialTokens): AddedToken[] {
  if (kind.addsAgain === undefined) return [];
  const all = new Map([...named.values(), ...extra].map((token) => [token.content, token] as const));
  const flags = { lstrip: false, rstrip: false, normalized: false, singleWord: false };
  return [...all.values()].map((token) =>
    kind.addsAgain === 'all' ? { ...token, ...flags, special: true } : { ...token, special: true },
  );
}

interface Surround {
  readonly start: string | undefined;
  readonly end: string | undefined;
}

/** The tokens around every text; undefined where tokenizer.json's own template decides. */
function surround({ kind, settings }: TokenizerSettings, vocabulary: Vocabulary): Surround | undefined {
  const { bare, json, tokens } = vocabulary;
  const said = bare && ('add_bos_token' in settings || 'add_eos_token' in settings);
  const stored = hasSection(json, 'post_processor');
  if (stored && !said && !kind.addsStart && !kind.ownTemplate) return undefined;
  const wants = (key: string, otherwise: boolean) => Boolean((bare ? settings[key] : undefined) ?? otherwise);
  const content = (role: string) => tokens.named.get(role)?.content;
  return {
    start: wants('add_bos_token', kind.addsStart) ? content('bos_token') : undefined,
    end: wants('add_eos_token', false) ? content('eos_token') : undefined,
  };
}

function setTemplate(
  rust: RustTokenizer,
  make: typeof import('tokenizers').templateProcessing,
  { start, end }: Surround,
  path: string,
): void {
  const pieces = [start, '$A', end].filter((piece) => piece !== undefined);
  const special = [start, end].filter((token) => token !== undefined);
  const ids = special.map((token): [string, number] => [token, rust.tokenToId(token) ?? 0]);
  try {
    rust.setPostProcessor(make(pieces.map((piece) => `${piece}:0`).join(' '), undefined, ids));
  } catch (error) {
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path}: ${show(special)} cannot stand around a text: ${reason(error)}`,
      { cause: error },
    );
  }
}

async function readVocabulary(
  files: TokenizerSettings,
  { form, name }: VocabularySource,
): Promise<Vocabulary> {
  const { folder, kind } = files;
  const path = join(folder, name);
  if (form === 'vocab.json') {
    const tokens = specialTokensOf(files);
    const parts = partsOf(files, tokens);
    const [vocab, merges] = await Promise.all([readText(path), readText(join(folder, 'merges.txt'))]);
    const model = {
      vocab: parseJsonObject(vocab, path, 'BAD_TOKENIZER'),
      merges: parseMerges(merges, folder),
    };
    return { json: bareJson(parts, model), path, listed: [], tokens, bare: true };
  }
  if (form === 'ranks') return readRankVocabulary(files, path, await readText(path));
  if (form === 'tokenizer.model') return readPieceVocabulary(files, path);
  const json = await readText(path);
  const stored = sectionOf(json, 'added_tokens');
  const tokens = specialTokensOf(files, Array.isArray(stored) ? stored : []);
  if (kind.parts === undefined) {
    refuseCleanUp(files, json);
    return { json, path, listed: [...listedTokens(stored)], tokens, bare: false };
  }
  const parts = partsOf(files, tokens);
  checkParts(json, parts, files);
  return { json: withParts(json, parts), path, listed: [], tokens, bare: false };
}

/** A file of ranks by the name of tokenizer.model, as Meta has called them. */
const LOOKS_LIKE_RANKS = /^[A-Za-z0-9+/]+={0,2} \d+\r?\n/;

/** `tokenizer.model` of SentencePiece. Its control and user-defined pieces are tokens of their own. */
async function readPieceVocabulary(files: TokenizerSettings, path: string): Promise<Vocabulary> {
  const bytes = await readWhole(path);
  if (files.kind.ranks && LOOKS_LIKE_RANKS.test(bytes.toString('latin1', 0, 200))) {
    return readRankVocabulary(files, path, bytes.toString('latin1'));
  }
  const model = readPieceModel(bytes, path);
  const extra = definedPieces(model);
  const { kind } = files;
  const defaults = kind.readsPieces ? kind.defaults : { ...namedBy(model), ...kind.defaults };
  const own = specialTokensOf({ ...files, kind: { ...kind, defaults } });
  const tokens: SpecialTokens = { ...own, extra: own.saysExtra ? own.extra : extra };
  const common = { path, listed: [], tokens, bare: true };
  if (kind.readsPieces) return { ...common, json: bareJson(partsOf(files, tokens), wordsOf(model)) };
  const all = [...extra, ...tokens.named.values(), ...tokens.extra, ...tokens.added.values()];
  const spelt = model.algorithm === 'unigram' && model.byteFallback;
  const unknownPiece = spelt ? model.pieces[model.unkId]?.text : undefined;
  return { ...common, json: pieceJson(model, all), prepare: pieceTexts(model, all, path), unknownPiece };
}

function namedBy({ special }: PieceModel): Record<string, string> {
  return Object.fromEntries(Object.entries(special).flatMap(([role, text]) => (text ? [[role, text]] : [])));
}

function readRankVocabulary(files: TokenizerSettings, path: string, text: string): Vocabulary {
  const { ranks: rules } = files.kind;
  if (!rules) throw new Error(`class ${files.kind.name} reads no ranks`);
  const ranks = readRanks(text, path);
  const tokens = withReserved(specialTokensOf(files), ranks, rules);
  return { json: rankJson(ranks, rules), path, listed: [], tokens, bare: true };
}

function partsOf({ kind, settings }: TokenizerSettings, tokens: SpecialTokens): ClassParts {
  if (kind.parts === undefined) throw new Error(`class ${kind.name} has no parts`);
  const prefix = settings.add_prefix_space;
  return kind.parts({
    addPrefixSpace: typeof prefix === 'boolean' ? prefix : undefined,
    legacy: settings.legacy === true,
    unkToken: tokens.named.get('unk_token')?.content,
  });
}

function bareJson({ normalizer, preTokenizer, decoder, model }: ClassParts, words: JsonObject): string {
  return JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder,
    model: { type: 'BPE', ...model, ...words },
  });
}

function* listedTokens(stored: unknown): Iterable<AddedToken> {
  for (const token of Array.isArray(stored) ? stored : []) {
    if (!isJsonObject(token) || typeof token.content !== 'string') continue; // the core says what is wrong
    yield {
      content: token.content,
      special: token.special === true,
      lstrip: token.lstrip === true,
      rstrip: token.rstrip === true,
      normalized: token.normalized === true,
      singleWord: token.single_word === true,
    };
  }
}

/** A class whose parts are of another kind than the file's would make nonsense of every text. */
function checkParts(json: string, parts: ClassParts, { folder, kind }: TokenizerSettings): void {
  const type = modelType(json);
  const isByteLevel = (part: unknown) => JSON.stringify(part).includes('"ByteLevel"');
  const stored = sectionOf(json, 'decoder') ?? sectionOf(json, 'pre_tokenizer');
  const otherKind = stored !== undefined && isByteLevel(stored) !== isByteLevel(parts.decoder);
  if ((type === undefined || type === 'BPE') && !otherKind) return;
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${folder}: the class ${kind.name} and tokenizer.json contradict each other (${
      otherKind ? 'one works on bytes, the other on marked spaces' : `its model is ${type}, not BPE`
    }): set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json to take tokenizer.json as it stands`,
  );
}

/** transformers leaves texts of BPE as decoded; of other models it takes spaces out of them. */
function refuseCleanUp({ settings, folder }: TokenizerSettings, json: string): void {
  const type = modelType(json) ?? 'BPE';
  if (settings.clean_up_tokenization_spaces !== true || type === 'BPE') return;
  throw new OperatingError(
    'UNSUPPORTED',
    `${join(folder, 'tokenizer_config.json')} sets clean_up_tokenization_spaces for a ${type} model, and texts are ` +
      'given as the model wrote them: set it to false to go on',
  );
}

/** One merge a line; a first line `#version: …` is none. */
function parseMerges(text: string, folder: string): [string, string][] {
  const lines = text.split('\n').map((line) => line.replace(/\r$/, ''));
  if (lines.at(-1) === '') lines.pop();
  const merges: [string, string][] = [];
  for (const [index, line] of lines.entries()) {
    if (line.startsWith('#version')) continue;
    const [left, right, ...more] = line.split(' ');
    if (left === undefined || right === undefined || more.length > 0) {
      throw new OperatingError(
        'BAD_TOKENIZER',
        `${join(folder, 'merges.txt')} has ${show(line)} on line ${index + 1}: a merge is two parts with a space between`,
      );
    }
    merges.push([left, right]);
  }
  return merges;
}

async function readText(path: string): Promise<string> {
  return (await readWhole(path)).toString('utf8');
}

async function readWhole(path: string): Promise<Buffer> {
  const bytes = await readSmallFile(path, MOST_JSON_BYTES, 'BAD_TOKENIZER');
  if (!bytes) throw new OperatingError('BAD_TOKENIZER', `${path} is absent`);
  return bytes;
}
