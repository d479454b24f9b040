// Calls that are JSON objects: Hermes and Qwen between tags, Llama 3 bare, Mistral after a token; and the list that is asked for by grammar.

import { type CallFormat, callOf, expect, parsed, type Reading, skipSpaces } from './call-format.js';
import { jsonEnd } from './json-end.js';
import type { Call } from './tool.js';

/** `<tool_call>{"name": …, "arguments": {…}}</tool_call>` */
export const HERMES: CallFormat = {
  openings: ['<tool_call>'],
  read(text) {
    const object = objectAt(text, '<tool_call>'.length);
    if (typeof object === 'string') return object;
    const end = expect(text, object.end, '</tool_call>');
    if (end === undefined) return 'more';
    return end < 0 ? 'text' : { calls: [object.call], length: end };
  },
};

const PYTHON_TAG = '<|python_tag|>';

/** `{"name": …, "parameters": {…}}`, several with `;` between them, behind a token that some versions write. */
export const LLAMA: CallFormat = {
  openings: [PYTHON_TAG],
  openingsAtStart: ['{'],
  openingsAfterCall: [';'],
  read(text) {
    const start = [PYTHON_TAG, ';'].find((opening) => text.startsWith(opening)) ?? '';
    const object = objectAt(text, start.length);
    return typeof object === 'string' ? object : { calls: [object.call], length: object.end };
  },
};

const TOOL_CALLS = '[TOOL_CALLS]';
const ARGUMENTS = '[ARGS]';
const CALL_ID = '[CALL_ID]';

/** A list of objects up to version 7 of its tokenizer; since then a name, `[ARGS]` in some versions, and its arguments. */
export const MISTRAL: CallFormat = {
  openings: [TOOL_CALLS],
  read(text) {
    const start = skipSpaces(text, TOOL_CALLS.length);
    const first = text.charAt(start);
    if (first === '') return 'more';
    if (first === '[' || first === '{') return callsIn(text, start);
    const open = text.indexOf('{', start);
    if (open < 0) return /^[\w.\-[\] ]{0,256}$/.test(text.slice(start)) ? 'more' : 'text';
    const [name = ''] = text.slice(start, open).replace(ARGUMENTS, '').split(CALL_ID);
    if (!/^[\w.-]+$/.test(name.trim())) return 'text';
    const end = jsonEnd(text, open);
    if (end === undefined) return 'more';
    const own = end < 0 ? '' : text.slice(open, end);
    return parsed(own) === undefined
      ? 'text'
      : { calls: [{ name: name.trim(), arguments: own }], length: end };
  },
};

/** A list of objects that is all of the answer: what a grammar asks for where calls have to come. */
export const JSON_LIST: CallFormat = {
  openings: [],
  openingsAtStart: ['['],
  read: (text) => callsIn(text, 0),
};

/** An object, or a list of some. */
function callsIn(text: string, start: number): Reading {
  const end = jsonEnd(text, start);
  if (end === undefined) return 'more';
  const value = end < 0 ? undefined : parsed(text.slice(start, end));
  const calls = (Array.isArray(value) ? value : [value]).map(callOf);
  const sound = calls.filter((call) => call !== undefined);
  return sound.length > 0 && sound.length === calls.length ? { calls: sound, length: end as number } : 'text';
}

function objectAt(text: string, at: number): { call: Call; end: number } | 'more' | 'text' {
  const start = skipSpaces(text, at);
  if (start === text.length) return 'more';
  if (text.charAt(start) !== '{') return 'text';
  const end = jsonEnd(text, start);
  if (end === undefined) return 'more';
  const call = end < 0 ? undefined : callOf(parsed(text.slice(start, end)));
  return call && end > 0 ? { call, end } : 'text';
}
