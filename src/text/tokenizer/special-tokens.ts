// The special and added tokens of a checkpoint, from all files that may name them, with the precedence of transformers.

import { OperatingError } from '../../../offload/index.js';
import { isJsonObject, type JsonObject, show } from '../../files/json-file.js';

/** A token beside the vocabulary, and how it is found in a text. */
export interface AddedToken {
  readonly content: string;
  readonly special: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Whether it is looked for in the normalised text. */
  readonly normalized: boolean;
  readonly singleWord: boolean;
}

export interface SpecialTokens {
  /** By role (`bos_token` …), in the order in which missing ones get ids; roles of the model's own at the end. */
  readonly named: ReadonlyMap<string, AddedToken>;
  /** Special tokens without a role. */
  readonly extra: readonly AddedToken[];
  /** Whether some file says which those are, and be it that there are none. */
  readonly saysExtra: boolean;
  /** Tokens with an id in some file, by that id. */
  readonly added: ReadonlyMap<number, AddedToken>;
}

/** Files that name tokens; undefined for those that are absent. */
export interface TokenFiles {
  readonly settings: JsonObject;
  readonly specialTokensMap: JsonObject | undefined;
  readonly addedTokens: JsonObject | undefined;
  /** `added_tokens` of tokenizer.json. */
  readonly listed: readonly unknown[] | undefined;
  /** For messages. */
  readonly folder: string;
}

const ROLES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;

/** @param defaults special tokens of the tokenizer's class, where no file gives (or denies) one */
export function readSpecialTokens(
  files: TokenFiles,
  defaults: Readonly<Record<string, string>>,
): SpecialTokens {
  const { settings, folder } = files;
  const values: Record<string, unknown> = { ...settings };
  // Models may have roles of their own, as `image_token`: texts of tokenizer_config.json come before objects and other files.
  const own = { texts: ownRoles(settings, (value) => typeof value === 'string'), rest: { ...defaults } };
  Object.assign(own.rest, ownRoles(settings, isTypedToken));
  renameExtra(values, own.texts);
  const added = new Map<number, AddedToken>();
  const byContent = new Map<string, AddedToken>();
  const addAt = (id: unknown, token: AddedToken, where: string) => {
    added.set(idOf(id, `${where} of ${folder}`), token);
    byContent.set(token.content, token);
  };
  let saysExtra = 'extra_special_tokens' in values;
  if (isJsonObject(settings.added_tokens_decoder)) {
    // In newer files everything is in tokenizer_config.json, and the others are left over from earlier versions.
    for (const [id, token] of Object.entries(settings.added_tokens_decoder)) {
      addAt(Number(id), tokenOf(token, {}), 'added_tokens_decoder');
    }
  } else {
    const mapped = mergeMap(values, own.rest, files.specialTokensMap ?? {});
    // What tokenizer_config.json has as an object is not looked up by its text.
    const lookup = [...ROLES.map((role) => values[role]), ...listOf(values.extra_special_tokens)];
    const special = new Set(
      lookup.filter((token) => typeof token === 'string' || mapped.has(token)).map(contentOf),
    );
    saysExtra = 'extra_special_tokens' in values;
    renameExtra(values, own.texts);
    for (const [content, id] of Object.entries(files.addedTokens ?? {})) {
      addAt(id, plainToken(content, special.has(content)), 'added_tokens.json');
    }
    for (const token of files.listed ?? []) {
      if (isJsonObject(token)) addAt(token.id, tokenOf(token, {}), 'added_tokens of tokenizer.json');
    }
  }
  const named = new Map<string, AddedToken>();
  for (const role of ROLES) {
    const value = role in values ? values[role] : defaults[role];
    const content = contentOf(value);
    if (content !== undefined) named.set(role, byContent.get(content) ?? tokenOf(value, { special: true }));
  }
  for (const [role, value] of Object.entries({ ...own.rest, ...own.texts })) {
    if (!isRole(role) && contentOf(value) !== undefined) named.set(role, tokenOf(value, { special: true }));
  }
  const extra = listOf(values.extra_special_tokens).map((token) => tokenOf(token, { special: true }));
  // A token with a role is special, whatever its flag says.
  for (const [role, token] of named) named.set(role, { ...token, special: true });
  return { named, extra, saysExtra, added };
}

function isRole(key: string): boolean {
  return (ROLES as readonly string[]).includes(key);
}

/**
 * `additional_special_tokens` is the older name; an object is of tokens with roles of the model's own.
 * @param own where those go
 */
function renameExtra(values: Record<string, unknown>, own: Record<string, unknown>): void {
  const older = values.additional_special_tokens;
  delete values.additional_special_tokens;
  if (older !== undefined && !('extra_special_tokens' in values)) values.extra_special_tokens = older;
  if (!isJsonObject(values.extra_special_tokens)) return;
  Object.assign(own, values.extra_special_tokens);
  delete values.extra_special_tokens;
}

/** What special_tokens_map.json names replaces what tokenizer_config.json does. Returns its objects. */
function mergeMap(
  values: Record<string, unknown>,
  own: Record<string, unknown>,
  map: JsonObject,
): ReadonlySet<unknown> {
  const mapped = new Set<unknown>();
  for (const [key, stored] of Object.entries(map)) {
    // Its objects are tokens although they do not say so, and special whatever they say.
    const isToken = isJsonObject(stored) && key !== 'extra_special_tokens';
    const value = isToken ? { ...stored, __type: 'AddedToken', special: true } : stored;
    if (isToken) mapped.add(value);
    if (key === 'extra_special_tokens' && Array.isArray(value)) {
      const there = listOf(values.extra_special_tokens);
      const contents = there.map(contentOf);
      values[key] = [...there, ...value.filter((token) => !contents.includes(contentOf(token)))];
    } else {
      values[key] = value;
      if (key.endsWith('_token')) own[key] = value;
    }
  }
  return mapped;
}

function ownRoles(values: JsonObject, isToken: (value: unknown) => boolean): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values).filter(([key, value]) => key.endsWith('_token') && !isRole(key) && isToken(value)),
  );
}

function isTypedToken(value: unknown): boolean {
  return isJsonObject(value) && value.__type === 'AddedToken';
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function objectOf(value: unknown): JsonObject {
  return isJsonObject(value) ? value : {};
}

/** A token is its text, or an object that has it as `content`. */
function contentOf(token: unknown): string | undefined {
  const content = isJsonObject(token) ? token.content : token;
  return typeof content === 'string' ? content : undefined;
}

function plainToken(content: string, special: boolean): AddedToken {
  return { content, special, lstrip: false, rstrip: false, normalized: !special, singleWord: false };
}

/** The default is that of transformers: special tokens are looked for in the text as it is. */
function tokenOf(token: unknown, { special = false }: { readonly special?: boolean }): AddedToken {
  const content = contentOf(token);
  if (content === undefined) {
    throw new OperatingError('BAD_TOKENIZER', 'the files of the tokenizer name a token without a text');
  }
  const flags = objectOf(token);
  // The flags of a token that was saved as an object of Python count.
  const isSpecial = (special && !isTypedToken(token)) || flags.special === true;
  return {
    ...plainToken(content, isSpecial),
    lstrip: flags.lstrip === true,
    rstrip: flags.rstrip === true,
    ...(typeof flags.normalized === 'boolean' ? { normalized: flags.normalized } : {}),
    singleWord: flags.single_word === true,
  };
}

function idOf(id: unknown, where: string): number {
  if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return id;
  throw new OperatingError('BAD_TOKENIZER', `${where} has the id ${show(id)}: ids are whole numbers`);
}
