// Messages of chats as clients send them, made such as templates take them.

import { z } from 'zod';
import type { TemplateMessage } from '../text/chat.js';
import { templateArguments } from '../tools/template-tools.js';
import { badField, unsupportedField } from './api-error.js';

const MOST_MESSAGES = 10_000;

const part = z.looseObject({ type: z.string() });

const CALL = z.looseObject({
  id: z.string().optional(),
  function: z.looseObject({ name: z.string(), arguments: z.string() }),
});

export const MESSAGE = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z
    .union([z.string(), z.array(part)])
    .nullable()
    .optional(),
  tool_calls: z.array(CALL).max(1024).nullable().optional(),
  tool_call_id: z.string().nullable().optional(),
  name: z.string().nullable().optional(),
  reasoning_content: z.string().nullable().optional(),
});

export const MESSAGES = z.array(MESSAGE).min(1).max(MOST_MESSAGES);

export type SentMessage = z.infer<typeof MESSAGE>;

/** As templates take them. Throws an ApiError that names the message. */
export function templateMessages(sent: readonly SentMessage[]): TemplateMessage[] {
  return sent.map((message, at) => {
    const { role, content, tool_calls: calls, reasoning_content: thought } = message;
    const param = `messages.${at}`;
    if (message.function_call) {
      throw unsupportedField(
        param,
        `${param} has a function_call, which was replaced by tool_calls: give these`,
      );
    }
    const isCall = calls !== undefined && calls !== null && calls.length > 0;
    const text = isCall && !content ? '' : textOf(content, `${param}.content`);
    // What came to be called developer's is the system's to every template.
    return {
      role: role === 'developer' ? 'system' : role,
      content: text,
      ...(isCall ? { tool_calls: calls.map(templateCall) } : {}),
      ...(message.tool_call_id ? { tool_call_id: message.tool_call_id } : {}),
      ...(message.name ? { name: message.name } : {}),
      ...(thought ? { reasoning_content: thought } : {}),
    };
  });
}

function templateCall({ id, function: own }: z.infer<typeof CALL>): object {
  return {
    ...(id ? { id } : {}),
    type: 'function',
    function: { name: own.name, arguments: templateArguments(own.arguments) },
  };
}

/** All text parts; anything else is refused. */
export function textOf(content: SentMessage['content'], param: string): string {
  if (typeof content === 'string') return content;
  if (!content) throw badField(param, `${param} is missing: give a text`);
  if (!Array.isArray(content))
    throw badField(param, `${param} is no text and no list of parts: give one of both`);
  return content
    .map((one, at) => {
      // Items of responses are looked at here for the first time.
      const { type, text } = (one ?? {}) as Readonly<Record<string, unknown>>;
      if (TEXT_PARTS.has(type) && typeof text === 'string') return text;
      const here = `${param}.${at}`;
      throw unsupportedField(here, `${here} is no text, and this model takes nothing else: leave it out`);
    })
    .join('');
}

/** As chats and responses call them. */
const TEXT_PARTS: ReadonlySet<unknown> = new Set(['text', 'input_text', 'output_text']);
