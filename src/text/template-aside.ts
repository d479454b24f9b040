// Chat templates on another thread: long chats, and tools with long schemas, take more than a moment.

import { type ErrorCode, OperatingError } from '../../offload/index.js';
import { Aside } from '../files/aside.js';
import type { Message, TemplateMessage } from './chat.js';

export interface ChatQuestion {
  /** Whose template it is. */
  readonly folder: string;
  readonly messages: readonly (Message | TemplateMessage)[];
  readonly variables: Readonly<Record<string, unknown>>;
}

export type ChatText = { readonly text: string } | { readonly code: ErrorCode; readonly message: string };

/** Values, and characters, that a template takes in a few milliseconds. */
const FEW_VALUES = 1000;
const FEW_CHARACTERS = 1 << 18;

/** Looks no further than where it is long. */
export function isLongChat(
  value: unknown,
  left = { values: FEW_VALUES, characters: FEW_CHARACTERS },
): boolean {
  left.values--;
  if (typeof value === 'string') left.characters -= value.length;
  else if (typeof value === 'object' && value !== null) {
    for (const one of Object.values(value)) if (isLongChat(one, left)) return true;
  }
  return left.values < 0 || left.characters < 0;
}

const aside = new Aside<ChatQuestion, ChatText>('./template-worker.js', import.meta.url);

/** Rejects as `render` of ChatTemplate throws. */
export async function renderAside(question: ChatQuestion): Promise<string> {
  const answer = await aside.ask(question);
  if ('text' in answer) return answer.text;
  throw new OperatingError(answer.code, answer.message);
}
