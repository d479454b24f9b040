// `/tokenize` and `/detokenize`: token ids of texts and chats, and texts of token ids.

import { z } from 'zod';
import { Turns } from '../files/turns.js';
import { decodeLong } from '../text/long-ids.js';
import { encodeLongText } from '../text/tokenizer/long-text.js';
import { badField } from './api-error.js';
import { endpoint } from './endpoint.js';
import { checkModel, IDS, requestOf } from './fields.js';
import { MESSAGES, templateMessages } from './messages.js';
import { whole } from './reply.js';
import { checkIds } from './text-wishes.js';

const model = z.string().min(1).max(1024).optional();

const TOKENIZE_SCHEMA = requestOf({
  model,
  prompt: z.string().optional(),
  messages: MESSAGES.optional(),
  add_special_tokens: z.boolean().optional().describe('around a prompt; default true'),
});

export const TOKENIZE = endpoint(
  'Token ids of a text or a chat',
  TOKENIZE_SCHEMA,
  async (fields, served, { signal }) => {
    checkModel(fields.model, served.names);
    const { prompt, messages, add_special_tokens: special = true } = fields;
    if ((prompt === undefined) === (messages === undefined)) {
      throw badField('prompt', 'give either a prompt or messages');
    }
    const ids = messages
      ? await served.coder.encode({ messages: templateMessages(messages) }, signal)
      : await encodeLongText(served.tokenizer, [prompt ?? ''], { bare: !special, signal });
    return whole({ tokens: await listOf(ids), count: ids.length, max_model_len: served.contextTokens });
  },
);

/** A text may have a million. */
async function listOf(ids: Int32Array): Promise<number[]> {
  const turns = new Turns();
  const list: number[] = [];
  for (let begin = 0; begin < ids.length; begin += AT_ONCE) {
    if (turns.isOver) await turns.next();
    for (const id of ids.subarray(begin, begin + AT_ONCE)) list.push(id);
  }
  return list;
}

const AT_ONCE = 1 << 13;

const DETOKENIZE_SCHEMA = requestOf({
  model,
  tokens: IDS.or(z.tuple([])),
  skip_special_tokens: z.boolean().optional().describe('default false'),
});

export const DETOKENIZE = endpoint('The text of token ids', DETOKENIZE_SCHEMA, async (fields, served) => {
  checkModel(fields.model, served.names);
  const { tokens, skip_special_tokens: skipSpecialTokens = false } = fields;
  checkIds(tokens, served.vocabSize, 'tokens');
  return whole({ prompt: await decodeLong(served.tokenizer, tokens, { skipSpecialTokens }) });
});
