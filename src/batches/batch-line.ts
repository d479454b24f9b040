// One line of a batch's input: which request it asks for, or what is wrong with it.

import { LONG_JSON_BYTES, NO_TEXT, parseBounded, parseBoundedAside } from '../files/bounded-json.js';
import { isJsonObject, type JsonObject, show } from '../files/json-file.js';

/** What batches may ask for. */
export const BATCH_ENDPOINTS = ['/v1/chat/completions', '/v1/completions', '/v1/responses'] as const;

export interface BatchRequest {
  readonly kind: 'request';
  readonly customId: string;
  readonly url: string;
  readonly body: JsonObject;
}

export interface BadLine {
  readonly kind: 'bad';
  /** Where it has one. */
  readonly customId: string | null;
  readonly code: string;
  readonly message: string;
}

const MOST_ID_CHARACTERS = 512;

/** A longer one is no request of texts. */
export const MOST_LINE_BYTES = 16 << 20;

/** @param endpoint the only one that is allowed; undefined: any that batches may ask for */
export async function parseLine(bytes: Buffer, endpoint?: string): Promise<BatchRequest | BadLine> {
  if (bytes.length > MOST_LINE_BYTES)
    return bad(
      null,
      'invalid_json',
      `the line has more than ${MOST_LINE_BYTES >> 20} MiB: give shorter requests`,
    );
  // Whoever keeps the lines is to keep them.
  const isLong = bytes.length > LONG_JSON_BYTES;
  const parsed = isLong ? await parseBoundedAside(Buffer.from(bytes)) : parseBounded(bytes);
  if ('problem' in parsed) {
    const code = parsed.problem === NO_TEXT ? 'invalid_text' : 'invalid_json';
    return bad(null, code, `the line ${parsed.problem}`);
  }
  const line = parsed.value;
  if (!isJsonObject(line)) return bad(null, 'invalid_json', 'the line is no JSON object');
  const { custom_id: id, method, url, body } = line;
  if (typeof id !== 'string' || id === '' || id.length > MOST_ID_CHARACTERS) {
    return bad(
      null,
      'invalid_custom_id',
      `custom_id must be a text of 1 to ${MOST_ID_CHARACTERS} characters`,
    );
  }
  if (method !== 'POST') return bad(id, 'invalid_method', `method must be "POST", and is ${show(method)}`);
  const allowed = endpoint === undefined ? BATCH_ENDPOINTS : [endpoint];
  if (typeof url !== 'string' || !allowed.some((one) => one === url)) {
    return bad(id, 'invalid_url', `url must be ${allowed.join(' or ')}, and is ${show(url)}`);
  }
  if (!isJsonObject(body)) return bad(id, 'invalid_body', 'body must be an object');
  return { kind: 'request', customId: id, url, body };
}

function bad(customId: string | null, code: string, message: string): BadLine {
  return { kind: 'bad', customId, code, message };
}
