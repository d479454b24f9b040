// JSON of bounded size and depth: looked at before it is parsed, and long texts on another thread.

import { Aside } from './aside.js';

/** Schemas of tools nest; nothing that is meant nests as deep. */
export const MOST_DEPTH = 64;

const [QUOTE, BACKSLASH, COMMA, COLON, OPEN_LIST, OPEN_OBJECT, CLOSE_LIST, CLOSE_OBJECT] = [
  ...'"\\,:[{]}',
].map((one) => one.charCodeAt(0));

/** What is not in strings: numbers of token ids, most of all. Parsing more would hold up everybody else. */
export const MOST_VALUES = 1 << 18;

/** Lists and objects, each of which is looked at by itself, and the names in objects. */
export const MOST_NESTED = 1 << 13;
export const MOST_NAMES = 1 << 15;

export interface JsonShape {
  /** How deep lists and objects nest, as far as was looked. */
  readonly depth: number;
  /** Commas outside of strings, so that there is at most one value more in each list or object. */
  readonly values: number;
  /** Lists and objects. */
  readonly nested: number;
  /** Names in objects. */
  readonly names: number;
}

/** Looks no further than where it is too deep or too much; what is no JSON may pass. */
export function shapeOf(bytes: Buffer): JsonShape {
  let [depth, deepest, values, nested, names] = [0, 0, 0, 0, 0];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === COMMA) values++;
    else if (byte === COLON) names++;
    else if (byte === QUOTE) at = stringEnd(bytes, at);
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      nested++;
      deepest = Math.max(deepest, ++depth);
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    if (deepest > MOST_DEPTH || values > MOST_VALUES || nested > MOST_NESTED || names > MOST_NAMES) break;
  }
  return { depth: deepest, values, nested, names };
}

/** Where the string ends that begins there; most of a body is one, which native code passes by. */
function stringEnd(bytes: Buffer, begin: number): number {
  for (let end = begin; ; ) {
    end = bytes.indexOf(QUOTE as number, end + 1);
    if (end < 0) return bytes.length;
    let first = end;
    while (bytes[first - 1] === BACKSLASH) first--;
    if ((end - first) % 2 === 0) return end;
  }
}

/** The name of what objects are made after, however its letters are written; looking at every value of a body takes long. */
const NAMES_PROTOTYPE =
  /"(?:_|\\u005f){2}(?:p|\\u0070)(?:r|\\u0072)(?:o|\\u006f)(?:t|\\u0074)(?:o|\\u006f)(?:_|\\u005f){2}"/i;

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** One of the problems. */
export const NO_TEXT = 'is no UTF-8 text';

/** What it is, or what is wrong with it as a sentence goes on. */
export type ParsedJson = { readonly value: unknown } | { readonly problem: string };

export function parseBounded(bytes: Buffer): ParsedJson {
  if (bytes.length === 0) return { problem: 'is empty: send a JSON object' };
  const { depth, values, nested, names } = shapeOf(bytes);
  if (depth > MOST_DEPTH) return { problem: `nests deeper than ${MOST_DEPTH} levels` };
  if (values > MOST_VALUES)
    return { problem: `has more than ${MOST_VALUES} values: send long prompts as texts` };
  if (nested > MOST_NESTED) return { problem: `has more than ${MOST_NESTED} lists and objects: send fewer` };
  if (names > MOST_NAMES) return { problem: `has objects with more than ${MOST_NAMES} names: send fewer` };
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch {
    return { problem: NO_TEXT };
  }
  try {
    const mayName = bytes.includes('__proto__') || bytes.includes('\\u00');
    const value =
      mayName && NAMES_PROTOTYPE.test(text)
        ? JSON.parse(text, (key, value) => (key === '__proto__' ? undefined : value))
        : JSON.parse(text);
    return { value };
  } catch {
    return { problem: 'is no JSON: check quotes and commas' };
  }
}

/** What takes longer than a message to another thread does, and back. */
export const LONG_JSON_BYTES = 1 << 16;

const aside = new Aside<Uint8Array, ParsedJson>('./json-worker.js', import.meta.url);

/** The same, on another thread where it is long. @param bytes nobody reads them any more */
export async function parseBoundedAside(bytes: Buffer): Promise<ParsedJson> {
  if (bytes.length <= LONG_JSON_BYTES) return parseBounded(bytes);
  // A slice of something larger is not to be taken away from whoever has the rest.
  const own = bytes.byteLength === bytes.buffer.byteLength ? bytes : Uint8Array.from(bytes);
  return aside.ask(own, [own.buffer as ArrayBuffer]);
}
