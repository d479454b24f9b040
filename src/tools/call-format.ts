// How a family of models writes calls: what each format says of a text that may be one.

import type { Call } from './tool.js';

/** What stands at the beginning of a text. */
export type Reading =
  /** That depends on what follows. */
  | 'more'
  /** No call: its first character is text. */
  | 'text'
  /** Calls, in so many characters. */
  | { readonly calls: readonly Call[]; readonly length: number };

export interface CallFormat {
  /** One of these begins it. */
  readonly openings: readonly string[];
  /** Besides, one of these where nothing but spaces came before in the answer. */
  readonly openingsAtStart?: readonly string[];
  /** Or one of these where nothing but spaces came since another call. */
  readonly openingsAfterCall?: readonly string[];
  /** @param text begins with an opening */
  read(text: string): Reading;
}

/** Whether `text` begins with `part`; undefined where it ends before that is known. */
export function startsWith(text: string, part: string): boolean | undefined {
  if (text.startsWith(part)) return true;
  return text.length < part.length && part.startsWith(text) ? undefined : false;
}

/** The text from `at` on is `part` behind spaces: where it ends; undefined where that is not known yet, or −1. */
export function expect(text: string, at: number, part: string): number | undefined {
  const start = skipSpaces(text, at);
  const found = startsWith(text.slice(start, start + part.length), part);
  return found === undefined ? undefined : found ? start + part.length : -1;
}

export function skipSpaces(text: string, at: number): number {
  let place = at;
  while (place < text.length && ' \n\r\t'.includes(text.charAt(place))) place++;
  return place;
}

/** The value as JSON, if it is an object, or the text of one. */
export function argumentsOf(value: unknown): string | undefined {
  if (value === undefined || value === null) return '{}';
  if (typeof value === 'string') return isObjectText(value) ? value : undefined;
  return typeof value === 'object' && !Array.isArray(value) ? JSON.stringify(value) : undefined;
}

function isObjectText(text: string): boolean {
  const value = parsed(text);
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Undefined for what is no JSON. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** A call as JSON objects write it: `arguments` or `parameters`, of which some models write a text. */
export function callOf(value: unknown): Call | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { name, arguments: given, parameters } = value as Readonly<Record<string, unknown>>;
  const own = argumentsOf(given ?? parameters);
  return typeof name === 'string' && name !== '' && own !== undefined ? { name, arguments: own } : undefined;
}
