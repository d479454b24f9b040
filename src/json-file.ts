// Reading a file that must hold one JSON object, with errors that name the file.

import { readFile } from 'node:fs/promises';
import { type ErrorCode, OperatingError } from '../offload/index.js';

export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The system's code of a failed file operation (`ENOENT`…), or undefined. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** What went wrong, in the words of whoever threw it, who may have quoted much of a file. */
export function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

/** Parses `text` as one JSON object; `code` is the error's code when it is none. */
export function parseJsonObject(text: string, path: string, code: ErrorCode): JsonObject {
  let value: unknown;
  try {
    // Some editors write a byte order mark, which JSON.parse refuses.
    value = JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  } catch (error) {
    throw new OperatingError(code, `${path} is not JSON: ${reason(error)}`, { cause: error });
  }
  if (!isJsonObject(value)) throw new OperatingError(code, `${path} holds JSON, but not an object`);
  return value;
}

/** The object in the file; undefined when there is no such file. */
export async function readOptionalJsonObject(path: string, code: ErrorCode): Promise<JsonObject | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new OperatingError('NOT_FOUND', `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  return parseJsonObject(text, path, code);
}

/** Names and values of a file as messages show them: escaped and cut, so that a message stays one short line. */
export function show(value: unknown): string {
  const text = textOf(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function textOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'nothing';
  } catch {
    return 'a value of too many levels'; // which JSON.parse reads, but nothing can write
  }
}
