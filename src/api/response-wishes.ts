// What responses ask for in words of their own: tools, formats and reasoning, as chats have them.

import { z } from 'zod';
import type { Grammar } from '../structured/grammar.js';
import { unsupportedField } from './api-error.js';
import { readPart } from './fields.js';
import { formatGrammar } from './grammar-fields.js';
import { FUNCTION, MOST_TOOLS, type ToolWishes, toolWishes } from './tool-fields.js';

const FORMAT = z.looseObject({
  type: z.string(),
  name: z.string().nullable().optional(),
  schema: z.union([z.boolean(), z.record(z.string(), z.unknown())]).optional(),
});

export const RESPONSE_WISHES = {
  text: z
    .strictObject({ format: FORMAT.nullable().optional(), verbosity: z.string().nullable().optional() })
    .nullable()
    .optional(),
  tools: z
    .array(z.looseObject({ type: z.string() }))
    .max(MOST_TOOLS)
    .nullable()
    .optional(),
  tool_choice: z
    .union([
      z.enum(['none', 'auto', 'required']),
      z.looseObject({ type: z.string(), name: z.string().optional() }),
    ])
    .nullable()
    .optional(),
  parallel_tool_calls: z.boolean().nullable().optional(),
  reasoning: z
    .strictObject({
      effort: z.string().nullable().optional(),
      summary: z.string().nullable().optional(),
      generate_summary: z.string().nullable().optional(),
    })
    .nullable()
    .optional(),
};

const SCHEMA = z.object(RESPONSE_WISHES);
type Fields = z.infer<typeof SCHEMA>;

/** Throws an ApiError. */
export function responseTools(fields: Fields): ToolWishes {
  const tools = (fields.tools ?? []).map((tool, at) => {
    if (tool.type !== 'function') {
      throw unsupportedField(
        `tools.${at}.type`,
        `tools.${at} is no function, and this model calls no other tools`,
      );
    }
    return { function: readPart(FUNCTION, { value: tool, param: `tools.${at}` }, unsupportedField) };
  });
  const { tool_choice: choice, parallel_tool_calls } = fields;
  if (choice && typeof choice === 'object' && choice.type !== 'function') {
    throw unsupportedField('tool_choice.type', 'tool_choice.type may be function: name one of tools');
  }
  const named = choice && typeof choice === 'object' ? { function: { name: choice.name ?? '' } } : choice;
  return toolWishes({ tools, tool_choice: named, parallel_tool_calls });
}

/** Undefined for an answer that is free. Throws an ApiError. */
export function responseGrammar({ text }: Fields): Grammar | undefined {
  const format = text?.format;
  if (text?.verbosity && text.verbosity !== 'medium') {
    throw unsupportedField('text.verbosity', 'text.verbosity is not known to this model: leave it out');
  }
  if (!format) return undefined;
  // Schemas lie one level higher than in chats.
  const asked = format.schema === undefined ? {} : { json_schema: { schema: format.schema } };
  return formatGrammar({ type: format.type, ...asked }, 'text.format');
}

/** For the chat template. Throws an ApiError where a summary is asked for: what the model thinks is told as it is. */
export function reasoningVariables({ reasoning }: Fields): Readonly<Record<string, unknown>> {
  const { effort, summary, generate_summary: older } = reasoning ?? {};
  if ((summary ?? older ?? 'auto') !== 'auto') {
    throw unsupportedField(
      'reasoning.summary',
      'reasoning is told as it is and not summed up: leave summary out',
    );
  }
  return effort ? { reasoning_effort: effort } : {};
}
