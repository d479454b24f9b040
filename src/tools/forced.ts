// Calls that have to come, or have to obey their schemas: the grammar of an answer, and how it is read.

import type { Grammar, Layout, TagLayout } from '../structured/grammar.js';
import type { Schema } from '../structured/schema.js';
import type { CallFormat } from './call-format.js';
import { HERMES, JSON_LIST, LLAMA } from './json-calls.js';
import type { CallParser } from './parser-names.js';
import { qwenCoder } from './tagged-calls.js';
import type { Tool } from './tool.js';

export interface ForcedCalls {
  readonly grammar: Grammar;
  /** How the calls are written. */
  readonly format: CallFormat;
}

/** Exactly one of them, or one or more. */
export interface ForcedOptions {
  readonly tools: readonly Tool[];
  readonly severalCalls: boolean;
}

/** As the model itself writes calls where that is plain text; elsewhere as a list of JSON objects. */
export function forcedCalls(parser: CallParser | undefined, options: ForcedOptions): ForcedCalls {
  const { tools, severalCalls } = options;
  const run = (separator: string, tag: (tool: Tool) => TagLayout): Layout => ({
    type: 'tags_with_separator',
    separator,
    tags: tools.map(tag),
    at_least_one: true,
    stop_after_first: !severalCalls,
  });
  switch (parser) {
    case 'hermes':
      return { grammar: { kind: 'layout', layout: run('\n', hermesTag) }, format: HERMES };
    case 'qwen3_coder':
      return { grammar: { kind: 'layout', layout: run('\n', coderTag) }, format: qwenCoder(tools) };
    case 'llama3_json':
      return {
        grammar: { kind: 'layout', layout: run('; ', (tool) => jsonTag(tool, 'parameters')) },
        format: LLAMA,
      };
    default: {
      const list = run(', ', (tool) => jsonTag(tool, 'arguments'));
      const elements: Layout[] = [constant('['), list, constant(']')];
      return { grammar: { kind: 'layout', layout: { type: 'sequence', elements } }, format: JSON_LIST };
    }
  }
}

/**
 * Text, in which calls obey the schemas of their tools; undefined where no tool asks for that, or where the model's calls begin with
 * tokens that no text can name.
 */
export function strictCalls(parser: CallParser | undefined, tools: readonly Tool[]): Grammar | undefined {
  if (!tools.some(({ strict }) => strict)) return undefined;
  const tag = parser === 'hermes' ? hermesTag : parser === 'qwen3_coder' ? coderTag : undefined;
  if (!tag) return undefined;
  const own = tools.map((tool) => tag(tool.strict ? tool : { ...tool, parameters: undefined }));
  return {
    kind: 'layout',
    layout: { type: 'triggered_tags', triggers: ['<tool_call>'], tags: own },
  };
}

const ANY_OBJECT: Schema = { type: 'object' };

function hermesTag(tool: Tool): TagLayout {
  const { begin, content } = jsonTag(tool, 'arguments');
  return { type: 'tag', begin: `<tool_call>\n${begin}`, content, end: '}\n</tool_call>' };
}

function jsonTag({ name, parameters }: Tool, key: string): TagLayout {
  return {
    type: 'tag',
    begin: `{"name": ${JSON.stringify(name)}, "${key}": `,
    content: { type: 'json_schema', json_schema: parameters ?? ANY_OBJECT },
    end: '}',
  };
}

function coderTag({ name, parameters }: Tool): TagLayout {
  return {
    type: 'tag',
    begin: `<tool_call>\n<function=${name}>\n`,
    content: { type: 'qwen_xml_parameter', json_schema: parameters ?? ANY_OBJECT },
    end: '\n</function>\n</tool_call>',
  };
}

function constant(value: string): Layout {
  return { type: 'const_string', value };
}
