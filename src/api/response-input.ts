// What a response goes on from: a text, or items of the conversation so far, as messages of a chat.

import { z } from 'zod';
import { badField, unsupportedField } from './api-error.js';
import { readPart } from './fields.js';
import type { SentMessage } from './messages.js';

const MOST_ITEMS = 10_000;

const ITEM = z.looseObject({ type: z.string().optional() });

export const INPUT = z.union([z.string(), z.array(ITEM).min(1).max(MOST_ITEMS)]);

const ROLES: readonly unknown[] = [
  'system',
  'developer',
  'user',
  'assistant',
] satisfies SentMessage['role'][];

/** Throws an ApiError that names the item. */
export function inputMessages(input: z.infer<typeof INPUT>, instructions: string | undefined): SentMessage[] {
  const before: SentMessage[] = instructions === undefined ? [] : [{ role: 'system', content: instructions }];
  if (typeof input === 'string') return [...before, { role: 'user', content: input }];
  const messages = before;
  for (const [at, item] of input.entries()) {
    const next = messageOf(item, `input.${at}`);
    const last = messages.at(-1);
    if (!next) continue;
    // A message and the calls behind it are one answer.
    if (next.tool_calls && last?.role === 'assistant') {
      messages.splice(-1, 1, { ...last, tool_calls: [...(last.tool_calls ?? []), ...next.tool_calls] });
    } else messages.push(next);
  }
  return messages;
}

const CALL = z.looseObject({ call_id: z.string(), name: z.string(), arguments: z.string() });
const OUTPUT = z.looseObject({ call_id: z.string(), output: z.union([z.string(), z.array(z.unknown())]) });

/** Undefined for what the model is not told again. */
function messageOf(item: z.infer<typeof ITEM>, param: string): SentMessage | undefined {
  const { type = 'message', role, content } = item;
  // What a model thought before its answer is no part of what it is told again.
  if (type === 'reasoning') return undefined;
  if (type === 'message' && ROLES.includes(role)) {
    return { role: role as SentMessage['role'], content: content as SentMessage['content'] };
  }
  if (type === 'function_call') {
    const { call_id: id, name, arguments: given } = partsOf(CALL, item, param);
    return { role: 'assistant', content: null, tool_calls: [{ id, function: { name, arguments: given } }] };
  }
  if (type === 'function_call_output') {
    const { call_id: id, output } = partsOf(OUTPUT, item, param);
    return { role: 'tool', tool_call_id: id, content: output as SentMessage['content'] };
  }
  throw unsupportedField(
    param,
    `${param} is neither a message of the system, a user or the assistant nor a call or its output: leave it out`,
  );
}

function partsOf<T>(schema: z.ZodType<T>, value: object, param: string): T {
  return readPart(schema, { value, param }, (at, sentence) => badField(at, sentence, 'invalid_value'));
}
