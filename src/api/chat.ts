// `/v1/chat/completions`: answers to conversations.

import { z } from 'zod';
import { type AnswerPart, joinParts } from '../tools/answer-parts.js';
import { badField } from './api-error.js';
import { beginAnswers, type ChatAnswer } from './chat-answers.js';
import { endpoint } from './endpoint.js';
import { checkModel, refuse, requestOf, TEXT_FIELDS, TOP_LOG_PROBS } from './fields.js';
import { GRAMMAR_FIELDS, grammarOf } from './grammar-fields.js';
import { newId, nowSeconds } from './ids.js';
import { chatLogProbs } from './log-probs.js';
import { MESSAGES } from './messages.js';
import { type Asking, DONE, type Reply, type ServerEvent, whole } from './reply.js';
import type { ServedModel } from './served-model.js';
import { allResults, textEvents, usageOf } from './texts.js';
import { TOOL_FIELDS, toolWishes } from './tool-fields.js';

const SCHEMA = requestOf({
  ...TEXT_FIELDS,
  messages: MESSAGES,
  max_completion_tokens: TEXT_FIELDS.max_tokens,
  logprobs: z.boolean().nullable().optional(),
  top_logprobs: TOP_LOG_PROBS.nullable().optional(),
  ...GRAMMAR_FIELDS,
  ...TOOL_FIELDS,
  functions: z.unknown().optional(),
  function_call: z.unknown().optional(),
  modalities: z.array(z.string()).nullable().optional(),
  reasoning_effort: z.string().nullable().optional(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullable().optional(),
});

type Fields = z.infer<typeof SCHEMA>;

export const CHAT = endpoint('Answers to a conversation', SCHEMA, answer);

/** What every answer and every event begins with. */
interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
}

async function answer(fields: Fields, model: ServedModel, asking: Asking): Promise<Reply> {
  checkModel(fields.model, model.names);
  checkWishes(fields);
  const answers = await beginAnswers(model, asking, {
    messages: fields.messages,
    fields,
    maxNewTokens: fields.max_completion_tokens ?? fields.max_tokens ?? undefined,
    samples: fields.n ?? 1,
    logProbs: fields.logprobs === true,
    topLogProbs: fields.top_logprobs ?? 0,
    tools: toolWishes(fields),
    grammar: grammarOf(fields),
    variables: {
      ...fields.chat_template_kwargs,
      ...(fields.reasoning_effort ? { reasoning_effort: fields.reasoning_effort } : {}),
    },
  });
  const head = {
    id: newId('chatcmpl-'),
    created: nowSeconds(),
    model: fields.model ?? (model.names[0] as string),
  };
  const told = { model, answers, head, logProbs: fields.logprobs === true };
  if (!fields.stream) return wholeAnswer(told);
  return { kind: 'stream', events: events(told, fields.stream_options?.include_usage === true) };
}

function checkWishes(fields: Fields): void {
  const { modalities } = fields;
  refuse(fields, {
    functions: 'was replaced by tools: give these',
    function_call: 'was replaced by tool_choice: give that',
  });
  refuse(
    {
      ...(modalities?.some((one) => one !== 'text') ? { modalities } : {}),
    },
    {
      modalities: "may only be 'text': leave it out",
    },
  );
  if (fields.top_logprobs && !fields.logprobs) {
    throw badField('top_logprobs', 'top_logprobs is told beside logprobs: add logprobs');
  }
  if (fields.stream_options && !fields.stream) {
    throw badField('stream_options', 'stream_options is for streams: add stream');
  }
}

interface Told {
  readonly model: ServedModel;
  readonly answers: readonly ChatAnswer[];
  readonly head: Head;
  readonly logProbs: boolean;
}

async function wholeAnswer({ model, answers, head, logProbs }: Told): Promise<Reply> {
  const texts = answers.map(({ text }) => text);
  const results = await allResults(texts);
  const choices: object[] = [];
  for (const [index, result] of results.entries()) {
    const { reader } = answers[index] as ChatAnswer;
    const { content, reasoning, calls } = joinParts([...reader.push(result.text), ...reader.end()]);
    choices.push({
      index,
      message: {
        role: 'assistant',
        content: content === '' && calls.length > 0 ? null : content,
        refusal: null,
        ...(reasoning === '' ? {} : { reasoning_content: reasoning }),
        ...(calls.length === 0 ? {} : { tool_calls: calls.map(wholeCall) }),
      },
      logprobs: logProbs ? await chatLogProbs(result, model.tokenizer) : null,
      finish_reason: calls.length > 0 ? 'tool_calls' : result.finishReason,
    });
  }
  const newTokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return whole({ ...head, object: 'chat.completion', choices, usage: usageOf(texts, newTokens) });
}

function wholeCall({ id, name, arguments: given }: { id: string; name: string; arguments: string }): object {
  return { id, type: 'function', function: { name, arguments: given } };
}

async function* events(
  { model, answers, head, logProbs }: Told,
  includesUsage: boolean,
): AsyncGenerator<ServerEvent, void> {
  const usage = includesUsage ? { usage: null } : {};
  const chunk = (index: number, delta: object, rest: object = {}): ServerEvent => ({
    data: {
      ...head,
      object: 'chat.completion.chunk',
      choices: [{ index, delta, logprobs: null, finish_reason: null, ...rest }],
      ...usage,
    },
  });
  const texts = answers.map(({ text }) => text);
  const hasCalls = new Set<number>();
  const deltas = (index: number, parts: readonly AnswerPart[]) => {
    if (parts.some(({ kind }) => kind === 'call')) hasCalls.add(index);
    return parts.map(delta);
  };
  let newTokens = 0;
  for (const { index } of texts) yield chunk(index, { role: 'assistant', content: '' });
  for await (const { text, piece, result } of textEvents(texts)) {
    const { index } = text;
    const { reader } = answers[index] as ChatAnswer;
    if (piece) {
      newTokens += piece.tokens.length;
      const [first = {}, ...others] = deltas(index, reader.push(piece.text));
      const logprobs = logProbs ? { logprobs: await chatLogProbs(piece, model.tokenizer) } : {};
      if (logProbs || Object.keys(first).length > 0) yield chunk(index, first, logprobs);
      for (const other of others) yield chunk(index, other);
    }
    if (result) {
      for (const rest of deltas(index, reader.end())) yield chunk(index, rest);
      yield chunk(index, {}, { finish_reason: hasCalls.has(index) ? 'tool_calls' : result.finishReason });
    }
  }
  if (includesUsage) {
    yield {
      data: { ...head, object: 'chat.completion.chunk', choices: [], usage: usageOf(texts, newTokens) },
    };
  }
  yield DONE;
}

function delta(part: AnswerPart): object {
  switch (part.kind) {
    case 'content':
      return { content: part.text };
    case 'reasoning':
      return { reasoning_content: part.text };
    case 'call': {
      const { index, id, name } = part;
      return { tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }] };
    }
    case 'arguments':
      return { tool_calls: [{ index: part.index, function: { arguments: part.text } }] };
  }
}
