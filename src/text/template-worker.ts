// The script of a thread that renders chats.

import { OperatingError } from '../../offload/index.js';
import { answerAside } from '../files/aside.js';
import { type ChatTemplate, loadChatTemplate } from './chat.js';
import type { ChatQuestion, ChatText } from './template-aside.js';

const templates = new Map<string, Promise<ChatTemplate>>();

answerAside(async ({ folder, messages, variables }: ChatQuestion): Promise<ChatText> => {
  const template = templates.get(folder) ?? loadChatTemplate(folder);
  templates.set(folder, template);
  try {
    return { text: (await template).render(messages, variables) };
  } catch (error) {
    if (error instanceof OperatingError) return { code: error.code, message: error.message };
    throw error;
  }
});
