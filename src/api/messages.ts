// Messages of chats as clients send them, made such as templates take them.

import { z } from 'zod';
import type { Message } from '../library/types.js';
import { badField, unsupportedField } from './api-error.js';

const MOST_MESSAGES = 10_000;

const part = z.looseObject({ type: z.string() });

export const MESSAGE = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z
    .union([z.string(), z.array(part)])
    .nullable()
    .optional(),
});

export const MESSAGES = z.array(MESSAGE).min(1).max(MOST_MESSAGES);

export type SentMessage = z.infer<typeof MESSAGE>;

/** Throws an ApiError that names the message. */
export function templateMessages(sent: readonly SentMessage[]): Message[] {
  return sent.map((message, at) => {
    const { role, content } = message;
    const param = `messages.${at}`;
    if (role === 'tool' || message.tool_calls || message.function_call) {
      throw unsupportedField(
        param,
        `${param} is of a tool call, which this model is not served with: leave it out`,
      );
    }
    // What came to be called developer's is the system's to every template.
    return { role: role === 'developer' ? 'system' : role, content: textOf(content, `${param}.content`) };
  });
}

/** All text parts; anything else is refused. */
export function textOf(content: SentMessage['content'], param: string): string {
  if (typeof content === 'string') return content;
  if (!content) throw badField(param, `${param} is missing: give a text`);
  return content
    .map((one, at) => {
      const isText = TEXT_PARTS.has(one.type) && typeof one.text === 'string';
      if (isText) return one.text as string;
      const here = `${param}.${at}`;
      throw unsupportedField(here, `${here} is no text, and this model takes nothing else: leave it out`);
    })
    .join('');
}

/** As chats and responses call them. */
const TEXT_PARTS: ReadonlySet<string> = new Set(['text', 'input_text', 'output_text']);
