// Bodies: JSON of bounded size and depth, looked at before it is parsed.

import { ApiError } from '../api/api-error.js';

/** Schemas of tools nest; nothing that is meant nests as deep. */
export const MOST_DEPTH = 64;

const [QUOTE, BACKSLASH, OPEN_LIST, OPEN_OBJECT, CLOSE_LIST, CLOSE_OBJECT] = [...'"\\[{]}'].map((one) =>
  one.charCodeAt(0),
);

/** Whether lists and objects nest deeper than that; a body that is no JSON may pass. */
export function isDeeper(bytes: Uint8Array, most: number): boolean {
  let [depth, inString] = [0, false];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (inString) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) inString = false;
    } else if (byte === QUOTE) inString = true;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      if (++depth > most) return true;
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
  }
  return false;
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** Throws an ApiError. */
export function parseBody(bytes: Buffer): unknown {
  if (bytes.length === 0) throw unreadable('the body is empty: send a JSON object');
  if (isDeeper(bytes, MOST_DEPTH)) throw unreadable(`the body nests deeper than ${MOST_DEPTH} levels`);
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch {
    throw unreadable('the body is no UTF-8 text');
  }
  try {
    return JSON.parse(text, (key, value) => (key === '__proto__' ? undefined : value));
  } catch {
    throw unreadable('the body is no JSON: check quotes and commas');
  }
}

function unreadable(message: string): ApiError {
  return new ApiError(message, { status: 400, type: 'invalid_request_error', code: 'invalid_body' });
}
