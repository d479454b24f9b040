// Tools that a request offers, and whether they have to be called.

import { z } from 'zod';
import type { Tool, ToolChoice } from '../tools/tool.js';
import { badField, unsupportedField } from './api-error.js';

const NAME = z.string().regex(/^[\w.-]{1,128}$/, 'is no name of a function: letters, digits, _ , . and -');
export const FUNCTION = z.looseObject({
  name: NAME,
  description: z.string().nullable().optional(),
  parameters: z.record(z.string(), z.unknown()).nullable().optional(),
  strict: z.boolean().nullable().optional(),
});

export const MOST_TOOLS = 128;

/** As chats have them. */
export const TOOL_FIELDS = {
  tools: z
    .array(z.looseObject({ type: z.literal('function'), function: FUNCTION }))
    .max(MOST_TOOLS)
    .nullable()
    .optional(),
  tool_choice: z
    .union([
      z.enum(['none', 'auto', 'required']),
      z.looseObject({ type: z.literal('function'), function: z.looseObject({ name: z.string() }) }),
    ])
    .nullable()
    .optional(),
  parallel_tool_calls: z.boolean().nullable().optional(),
};

export interface ToolWishes {
  readonly tools: readonly Tool[];
  readonly choice: ToolChoice;
  /** More than one call may come. */
  readonly severalCalls: boolean;
}

export interface ToolFields {
  readonly tools?: readonly { readonly function: z.infer<typeof FUNCTION> }[] | null | undefined;
  readonly tool_choice?: ToolChoice | { readonly function: { readonly name: string } } | null | undefined;
  readonly parallel_tool_calls?: boolean | null | undefined;
}

/** Throws an ApiError. */
export function toolWishes(fields: ToolFields): ToolWishes {
  const tools = (fields.tools ?? []).map(({ function: own }): Tool => {
    const { name, description, parameters, strict } = own;
    return {
      name,
      ...(description ? { description } : {}),
      ...(parameters ? { parameters } : {}),
      ...(strict ? { strict } : {}),
    };
  });
  const names = new Set(tools.map(({ name }) => name));
  if (names.size < tools.length) throw badField('tools', 'two tools have one name: give each its own');
  return { tools, choice: choiceOf(fields, names), severalCalls: fields.parallel_tool_calls !== false };
}

function choiceOf({ tool_choice: given }: ToolFields, names: ReadonlySet<string>): ToolChoice {
  if (given === undefined || given === null) return names.size > 0 ? 'auto' : 'none';
  if (given === 'none') return given;
  if (names.size === 0) throw badField('tool_choice', 'tool_choice is for requests with tools: give some');
  if (typeof given === 'string') return given;
  const { name } = 'function' in given ? given.function : given;
  if (names.has(name)) return { name };
  throw badField('tool_choice', `tool_choice names a tool that is not among tools: give one that is`);
}

/** Throws where the model does not write calls. */
export function checkWritesCalls(hasTools: boolean, writesCalls: boolean): void {
  if (!hasTools || writesCalls) return;
  throw unsupportedField(
    'tools',
    "tools are not in this model's chat template: leave them out, or serve it with --tool_parser",
  );
}
