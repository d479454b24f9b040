// What a response goes on from: a text, or items of the conversation so far, as messages of a chat.

import { z } from 'zod';
import { unsupportedField } from './api-error.js';
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
  return [...before, ...input.flatMap((item, at) => messageOf(item, `input.${at}`))];
}

function messageOf(item: z.infer<typeof ITEM>, param: string): SentMessage[] {
  const { type = 'message', role, content } = item;
  // What a model thought before its answer is no part of what it is told again.
  if (type === 'reasoning') return [];
  if (type === 'message' && ROLES.includes(role)) {
    return [{ role: role as SentMessage['role'], content: content as SentMessage['content'] }];
  }
  throw unsupportedField(
    param,
    `${param} is no message of the system, a user or the assistant: leave it out`,
  );
}
