// Parts of tokenizer.json that are looked at here, without parsing the whole of it, and what the Rust core does not
// check although it ends the process when it is wrong.

import { OperatingError } from '../../../offload/index.js';
import { isJsonObject, show } from '../../files/json-file.js';
import type { ClassParts } from './classes.js';

/**
 * The value of a key whose value is a list, an object or a text; undefined when there is none, or `json` is no JSON.
 * Only this part is parsed: a vocabulary of 250,000 entries takes JSON.parse longer than all else. The key cannot be
 * mistaken: within a string its quotes would be escaped, and vocabularies map to numbers.
 */
export function sectionOf(json: string, key: string): unknown {
  const found = new RegExp(`"${key}"\\s*:\\s*(?=[[{"])`).exec(json);
  if (!found) return undefined;
  const start = found.index + found[0].length;
  try {
    return JSON.parse(json.slice(start, valueEnd(json, start)));
  } catch {
    return undefined; // whoever reads the whole file says what is wrong with it
  }
}

/** Whether the key is there with a value other than null. */
export function hasSection(json: string, key: string): boolean {
  return new RegExp(`"${key}"\\s*:\\s*[[{"]`).test(json);
}

const MODEL_OPTIONS = [
  'dropout',
  'unk_token',
  'continuing_subword_prefix',
  'end_of_word_suffix',
  'fuse_unk',
  'byte_fallback',
  'ignore_merges',
];
/** An option of a BPE model that a class decides, by its value, which no vocabulary has: those are whole numbers. */
const MODEL_OPTION = `"(?:${MODEL_OPTIONS.join('|')})"\\s*:\\s*(?:"(?:[^"\\\\]|\\\\.)*"|null|true|false|\\d+\\.\\d+)`;

/** BPE, Unigram …; undefined where it is not said before the vocabulary, as in old files. */
export function modelType(json: string): string | undefined {
  const { start, vocabAt } = modelPlace(json);
  return /"type"\s*:\s*"(\w+)"/.exec(json.slice(start, vocabAt))?.[1];
}

function modelPlace(json: string): { start: number; vocabAt: number } {
  const found = /"model"\s*:\s*\{/.exec(json);
  const start = found ? found.index + found[0].length : json.length;
  const vocabAt = json.indexOf('"vocab"', start);
  return { start, vocabAt: vocabAt < 0 ? json.length : vocabAt };
}

interface Edit {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

/** `json` with the parts of a class in place of its own, and without added tokens. Vocabulary and merges stay unread. */
export function withParts(json: string, parts: ClassParts): string {
  const { start, vocabAt } = modelPlace(json);
  const head = json.slice(start, vocabAt).replace(new RegExp(`${MODEL_OPTION}\\s*,?`, 'g'), '');
  const options = JSON.stringify(parts.model).slice(1, -1);
  const edits: Edit[] = [
    { start, end: vocabAt, text: `${options},${head}` },
    sectionEdit(json, 'normalizer', parts.normalizer),
    sectionEdit(json, 'pre_tokenizer', parts.preTokenizer),
    sectionEdit(json, 'decoder', parts.decoder),
    sectionEdit(json, 'added_tokens', []),
  ];
  // A search for plain text is much faster than for a pattern, and most files have the options first.
  if (MODEL_OPTIONS.some((option) => json.includes(`"${option}"`, vocabAt))) {
    const later = new RegExp(`,?\\s*${MODEL_OPTION}`, 'g');
    later.lastIndex = vocabAt;
    for (let found = later.exec(json); found; found = later.exec(json)) {
      edits.push({ start: found.index, end: later.lastIndex, text: '' });
    }
  }
  return edited(json, edits);
}

function sectionEdit(json: string, key: string, value: unknown): Edit {
  const found = new RegExp(`"${key}"\\s*:\\s*(?=[[{"n])`).exec(json);
  if (!found) {
    const start = json.indexOf('{') + 1;
    return { start, end: start, text: `"${key}":${JSON.stringify(value)},` };
  }
  const start = found.index + found[0].length;
  const end = json[start] === 'n' ? start + 'null'.length : valueEnd(json, start);
  return { start, end, text: JSON.stringify(value) };
}

/** All at once: every copy of a large file takes its time. */
function edited(json: string, edits: readonly Edit[]): string {
  const pieces: string[] = [];
  let at = 0;
  for (const { start, end, text } of edits.toSorted((a, b) => a.start - b.start)) {
    pieces.push(json.slice(at, start), text);
    at = end;
  }
  return [...pieces, json.slice(at)].join('');
}

/** Where the JSON value that starts at `start` ends; the end of the text when it does not. */
function valueEnd(text: string, start: number): number {
  let depth = 0;
  let at = start;
  do {
    const character = text[at];
    if (character === '[' || character === '{') depth++;
    else if (character === ']' || character === '}') depth--;
    else if (character === '"') {
      for (at++; at < text.length && text[at] !== '"'; at++) if (text[at] === '\\') at++;
    }
    at++;
  } while (depth > 0 && at < text.length);
  return at;
}

/** Errors: BAD_TOKENIZER for what would end the process while the core reads or uses the file. */
export function checkForCore(json: string, path: string): void {
  checkTemplates(sectionOf(json, 'post_processor'), path);
  const prefix = sectionOf(json, 'continuing_subword_prefix');
  if (typeof prefix === 'string' && prefix !== '') checkMerges(sectionOf(json, 'merges'), prefix, path);
}

/** The core cuts the prefix off the right half of every merge, whether it is there or not. */
function checkMerges(merges: unknown, prefix: string, path: string): void {
  for (const merge of Array.isArray(merges) ? merges : []) {
    const right: unknown = Array.isArray(merge) ? merge[1] : String(merge).split(' ').at(-1);
    if (typeof right === 'string' && right.startsWith(prefix)) continue;
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path} has the merge ${show(merge)}, whose second half lacks the continuing_subword_prefix ${show(prefix)}`,
    );
  }
}

/** Every special token that a template puts around a text must be defined, with a text for each id. */
function checkTemplates(postProcessor: unknown, path: string): void {
  if (!isJsonObject(postProcessor)) return;
  const { type, processors, special_tokens: defined } = postProcessor;
  if (Array.isArray(processors)) for (const processor of processors) checkTemplates(processor, path);
  if (type !== 'TemplateProcessing') return;
  if (namesIn(postProcessor.single, 'Sequence').some((name) => name !== 'A')) {
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path} has a template for single texts that asks for a second one: its post_processor.single may hold A only`,
    );
  }
  for (const template of [postProcessor.single, postProcessor.pair]) {
    for (const name of namesIn(template, 'SpecialToken')) {
      const token = isJsonObject(defined) && Object.hasOwn(defined, name) ? defined[name] : undefined;
      const { ids, tokens } = isJsonObject(token) ? token : {};
      if (Array.isArray(ids) && Array.isArray(tokens) && ids.length === tokens.length) continue;
      throw new OperatingError(
        'BAD_TOKENIZER',
        `${path} puts the token ${show(name)} around texts, but its post_processor.special_tokens does not define ` +
          'it with as many tokens as ids',
      );
    }
  }
}

/** The ids of a template's pieces of one kind. */
function namesIn(template: unknown, kind: 'Sequence' | 'SpecialToken'): string[] {
  const pieces: unknown[] = Array.isArray(template) ? template : [];
  const ids = pieces.map((piece) => {
    const inner = isJsonObject(piece) ? piece[kind] : undefined;
    return isJsonObject(inner) ? inner.id : undefined;
  });
  return ids.filter((id) => typeof id === 'string');
}
