// Reading a file that must hold one JSON object, with errors that name the file.

import { type ErrorCode, OperatingError } from '../../offload/index.js';
import { reason } from './failure-reason.js';
import { parsePythonJson } from './python-json.js';
import { readSmallFile } from './regular-file.js';

export { reason, systemCode } from './failure-reason.js';

export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Parses `text` as one JSON object; `code` is the error's code when it is none. */
export function parseJsonObject(text: string, path: string, code: ErrorCode): JsonObject {
  let value: unknown;
  try {
    value = parsePythonJson(text);
  } catch (error) {
    throw new OperatingError(code, `${path} is not JSON: ${reason(error)}`, { cause: error });
  }
  if (!isJsonObject(value)) throw new OperatingError(code, `${path} holds JSON, but not an object`);
  return value;
}

/** The largest ones of published checkpoints, indexes and tokenizers, have some tens of megabytes. */
export const MOST_JSON_BYTES = 256 * 1024 * 1024;

/** The object in the file; undefined when there is no such file. */
export async function readOptionalJsonObject(path: string, code: ErrorCode): Promise<JsonObject | undefined> {
  const bytes = await readSmallFile(path, MOST_JSON_BYTES, code);
  if (!bytes) return undefined;
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new OperatingError(code, `${path} is not UTF-8 text`, { cause: error });
  }
  return parseJsonObject(text, path, code);
}

/** Names and values of a file as messages show them: escaped and cut, so that a message stays one short line. */
export function show(value: unknown): string {
  const text = textOf(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function textOf(value: unknown): string {
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
  try {
    return JSON.stringify(value) ?? 'nothing';
  } catch {
    return 'a value of too many levels'; // which JSON.parse reads, but nothing can write
  }
}
