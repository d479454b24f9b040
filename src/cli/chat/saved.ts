// Conversations in files: an object with `messages` in one line, so that it is a line of prompts as well.

import { statSync } from 'node:fs';
import { OperatingError } from '../../../offload/index.js';
import { MOST_JSON_BYTES, parseJsonObject } from '../../files/json-file.js';
import {
  checkReplaceable,
  checkWritable,
  notReplaceable,
  type WholeFile,
  writeWherever,
} from '../../files/output-file.js';
import { readTextFile } from '../../files/text-file.js';
import type { Message } from '../../text/chat.js';
import { parseMessages } from '../generation/prompt-line.js';

const CONVERSATION: WholeFile = { what: 'a saved conversation', marks: ['{"messages":['] };

/** Replaces an earlier one, and no other file. Throws BAD_OPTION or WRITE_FAILED. */
export async function saveConversation(
  path: string,
  messages: readonly Message[],
  signal: AbortSignal,
): Promise<void> {
  const target = checkWritable(path, '/save');
  checkReplaceable(target, '/save', CONVERSATION);
  // A file of prompts may begin as a conversation does, and hold more.
  if (target.kind === 'file' && target.found && !(await isConversation(target.path, signal))) {
    throw notReplaceable(target.path, '/save', CONVERSATION);
  }
  await writeWherever(path, `${JSON.stringify({ messages })}\n`, '/save', signal);
}

async function isConversation(path: string, signal: AbortSignal): Promise<boolean> {
  try {
    const text = await readTextFile({ path, option: '/save', signal }, MOST_JSON_BYTES);
    return text === '' || Object.keys(parseJsonObject(text, path, 'BAD_INPUT')).join() === 'messages';
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'BAD_INPUT') return false;
    throw error;
  }
}

/** Throws NOT_FOUND or BAD_INPUT. */
export async function loadConversation(path: string, signal: AbortSignal): Promise<readonly Message[]> {
  if (statSync(path, { throwIfNoEntry: false })?.isFIFO()) {
    throw new OperatingError('BAD_INPUT', `/load: ${path} is a pipe: give a file`);
  }
  const text = await readTextFile({ path, option: '/load', signal }, MOST_JSON_BYTES);
  const { messages } = parseJsonObject(text, path, 'BAD_INPUT');
  const read = parseMessages(messages, path);
  const system = read.findLastIndex(({ role }) => role === 'system');
  if (system > 0) {
    throw new OperatingError(
      'BAD_INPUT',
      `${path}: 'messages' ${system} is of the system: only the first may be`,
    );
  }
  return read;
}
