// Bodies: JSON of bounded size and depth, looked at before it is parsed.

import { ApiError } from '../api/api-error.js';

/** Schemas of tools nest; nothing that is meant nests as deep. */
export const MOST_DEPTH = 64;

const [QUOTE, BACKSLASH, COMMA, OPEN_LIST, OPEN_OBJECT, CLOSE_LIST, CLOSE_OBJECT] = [...'"\\,[{]}'].map(
  (one) => one.charCodeAt(0),
);

/** What is not in strings: numbers of token ids, most of all. Parsing more would hold up everybody else. */
export const MOST_VALUES = 1 << 18;

export interface BodyShape {
  /** How deep lists and objects nest, as far as was looked. */
  readonly depth: number;
  /** Commas outside of strings, so that there is at most one value more in each list or object. */
  readonly values: number;
}

/** Looks no further than where it is too deep or too much; a body that is no JSON may pass. */
export function shapeOf(bytes: Buffer): BodyShape {
  let [depth, deepest, values] = [0, 0, 0];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === COMMA) values++;
    else if (byte === QUOTE) at = stringEnd(bytes, at);
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) deepest = Math.max(deepest, ++depth);
    else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    if (deepest > MOST_DEPTH || values > MOST_VALUES) break;
  }
  return { depth: deepest, values };
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

/** Throws an ApiError. */
export function parseBody(bytes: Buffer): unknown {
  if (bytes.length === 0) throw unreadable('the body is empty: send a JSON object');
  const { depth, values } = shapeOf(bytes);
  if (depth > MOST_DEPTH) throw unreadable(`the body nests deeper than ${MOST_DEPTH} levels`);
  if (values > MOST_VALUES)
    throw unreadable(`the body has more than ${MOST_VALUES} values: send long prompts as texts`);
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch {
    throw unreadable('the body is no UTF-8 text');
  }
  try {
    const mayName = bytes.includes('__proto__') || bytes.includes('\\u00');
    return mayName && NAMES_PROTOTYPE.test(text)
      ? JSON.parse(text, (key, value) => (key === '__proto__' ? undefined : value))
      : JSON.parse(text);
  } catch {
    throw unreadable('the body is no JSON: check quotes and commas');
  }
}

function unreadable(message: string): ApiError {
  return new ApiError(message, { status: 400, type: 'invalid_request_error', code: 'invalid_body' });
}
