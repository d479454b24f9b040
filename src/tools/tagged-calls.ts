// Calls whose arguments stand between tags one by one: Qwen3-Coder and GLM-4.5. A schema says which of them are no texts.

import { type CallFormat, parsed, type Reading, startsWith } from './call-format.js';
import type { Call, Tool } from './tool.js';

type Arguments = readonly (readonly [string, string])[];

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';

/** `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`, each on lines of their own. */
export function qwenCoder(tools: readonly Tool[]): CallFormat {
  return {
    openings: [OPEN, '<function='],
    read(text) {
      const isTagged = text.startsWith(OPEN);
      const start = isTagged ? OPEN.length + spacesAt(text, OPEN.length) : 0;
      const begins = startsWith(text.slice(start), '<function=');
      if (!begins) return begins === undefined ? 'more' : 'text';
      const tail = new RegExp(`</function>${isTagged ? '\\s*</tool_call>' : ''}`, 'g');
      tail.lastIndex = start;
      const found = tail.exec(text);
      if (!found) return 'more';
      const inside = /^<function=([^>\n]+)>([\s\S]*)$/.exec(text.slice(start, found.index));
      const [, name, body = ''] = inside ?? [];
      if (name === undefined) return 'text';
      const given = pairs(body, /<parameter=([^>\n]+)>([\s\S]*?)<\/parameter>/gy);
      return called(
        name,
        given?.map(([key, value]) => [key, withoutLines(value)]),
        tools,
        tail.lastIndex,
      );
    },
  };
}

/** `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…</tool_call>`, with lines between them. */
export function glm(tools: readonly Tool[]): CallFormat {
  return {
    openings: [OPEN],
    read(text) {
      const end = text.indexOf(CLOSE);
      if (end < 0) return 'more';
      const [, name = '', body = ''] = /^\s*([^\s<]+)\s*([\s\S]*)$/.exec(text.slice(OPEN.length, end)) ?? [];
      if (!/^[\w.-]+$/.test(name)) return 'text';
      const given = pairs(body, /<arg_key>([\s\S]*?)<\/arg_key>\s*<arg_value>([\s\S]*?)<\/arg_value>/gy);
      return called(
        name,
        given?.map(([key, value]) => [key.trim(), value]),
        tools,
        end + CLOSE.length,
      );
    },
  };
}

function called(name: string, given: Arguments | undefined, tools: readonly Tool[], length: number): Reading {
  if (!given) return 'text';
  const tool = tools.find((one) => one.name === name);
  const values = given.map(([key, value]): [string, unknown] => [key, argumentValue(value, key, tool)]);
  const call: Call = { name, arguments: JSON.stringify(Object.fromEntries(values)) };
  return { calls: [call], length };
}

/** Undefined where there is something else between them. */
function pairs(body: string, each: RegExp): [string, string][] | undefined {
  const found: [string, string][] = [];
  let at = spacesAt(body, 0);
  while (at < body.length) {
    each.lastIndex = at;
    const match = each.exec(body);
    if (!match) return undefined;
    found.push([match[1] ?? '', match[2] ?? '']);
    at = each.lastIndex + spacesAt(body, each.lastIndex);
  }
  return found;
}

function spacesAt(text: string, at: number): number {
  return /^\s*/.exec(text.slice(at))?.[0].length ?? 0;
}

/** The lines around a value are the format's. */
function withoutLines(value: string): string {
  return value.replace(/^\n/, '').replace(/\n$/, '');
}

/** What the schema calls a text is one; anything else is JSON where it can be. */
function argumentValue(text: string, key: string, tool: Tool | undefined): unknown {
  const schema = propertyOf(tool, key);
  if (schema?.type === 'string') return text;
  const value = parsed(text.trim());
  return value === undefined ? text : value;
}

function propertyOf(tool: Tool | undefined, key: string): { readonly type?: unknown } | undefined {
  const { parameters } = tool ?? {};
  if (typeof parameters !== 'object') return undefined;
  const { properties } = parameters as { readonly properties?: unknown };
  if (typeof properties !== 'object' || properties === null || !Object.hasOwn(properties, key))
    return undefined;
  const schema = (properties as Readonly<Record<string, unknown>>)[key];
  return typeof schema === 'object' && schema !== null ? schema : undefined;
}
