// Calls as DeepSeek V3 and V3.1 write them, between tokens of their own.

import { argumentsOf, type CallFormat, parsed, startsWith } from './call-format.js';
import type { Call } from './tool.js';

const CALLS = '<｜tool▁calls▁begin｜>';
const CALLS_END = '<｜tool▁calls▁end｜>';
const CALL = '<｜tool▁call▁begin｜>';
const CALL_END = '<｜tool▁call▁end｜>';
const SEPARATOR = '<｜tool▁sep｜>';

/** V3: `function`, separator, name, and arguments as a block of code; V3.1: name, separator, arguments. */
export const DEEPSEEK: CallFormat = {
  openings: [CALLS],
  read(text) {
    const calls: Call[] = [];
    for (let at = CALLS.length; ; ) {
      at += spacesAt(text, at);
      const rest = text.slice(at);
      const ends = startsWith(rest, CALLS_END);
      const begins = startsWith(rest, CALL);
      if (ends) return calls.length > 0 ? { calls, length: at + CALLS_END.length } : 'text';
      if (!begins) return ends === undefined || begins === undefined ? 'more' : 'text';
      const end = text.indexOf(CALL_END, at);
      if (end < 0) return 'more';
      const call = callIn(text.slice(at + CALL.length, end));
      if (!call) return 'text';
      calls.push(call);
      at = end + CALL_END.length;
    }
  },
};

function callIn(text: string): Call | undefined {
  const [first = '', second] = text.split(SEPARATOR);
  if (second === undefined) return undefined;
  const inBlock = /^([^\n]+)\n```(?:json)?\n([\s\S]*?)\n?```\s*$/.exec(second);
  const [name, own] = inBlock ? [inBlock[1] ?? '', inBlock[2] ?? ''] : [first, second];
  const given = parsed(own) === undefined ? undefined : argumentsOf(own.trim());
  return given !== undefined && name.trim() !== '' ? { name: name.trim(), arguments: given } : undefined;
}

function spacesAt(text: string, at: number): number {
  return /^\s*/.exec(text.slice(at))?.[0].length ?? 0;
}
