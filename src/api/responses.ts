// `/v1/responses`: the same answers in the newer form, as items; nothing is stored between requests.

import { z } from 'zod';
import { joinParts } from '../tools/answer-parts.js';
import { badField } from './api-error.js';
import { beginAnswers, type ChatAnswer } from './chat-answers.js';
import { endpoint } from './endpoint.js';
import { checkModel, refuse, requestOf, SAMPLING_FIELDS, TEXT_FIELDS, TOP_LOG_PROBS } from './fields.js';
import { newId, nowSeconds } from './ids.js';
import { tokenLogProbs } from './log-probs.js';
import type { Asking, Reply } from './reply.js';
import { whole } from './reply.js';
import { responseEvents } from './response-events.js';
import { INPUT, inputMessages } from './response-input.js';
import { itemsOf, type ResponseHead, responseBody } from './response-items.js';
import { RESPONSE_WISHES, reasoningVariables, responseGrammar, responseTools } from './response-wishes.js';
import type { ServedModel } from './served-model.js';
import { allResults, usageOf } from './texts.js';

const given = z.unknown().optional();

const SCHEMA = requestOf({
  ...SAMPLING_FIELDS,
  model: TEXT_FIELDS.model,
  input: INPUT,
  instructions: z.string().nullable().optional(),
  max_output_tokens: TEXT_FIELDS.max_tokens,
  stream: z.boolean().nullable().optional(),
  stop: TEXT_FIELDS.stop,
  top_logprobs: TOP_LOG_PROBS.nullable().optional(),
  ...RESPONSE_WISHES,
  include: z.array(z.string()).nullable().optional(),
  truncation: z.enum(['auto', 'disabled']).nullable().optional(),
  background: z.boolean().nullable().optional(),
  previous_response_id: given,
  conversation: given,
  prompt: given,
  stream_options: z.strictObject({ include_obfuscation: z.boolean().optional() }).nullable().optional(),
});

type Fields = z.infer<typeof SCHEMA>;

/** What `include` calls log-probabilities. */
const LOG_PROBS = 'message.output_text.logprobs';

export const RESPONSES = endpoint('An answer as items', SCHEMA, answer);

async function answer(fields: Fields, model: ServedModel, asking: Asking): Promise<Reply> {
  checkModel(fields.model, model.names);
  checkWishes(fields);
  const logProbs = fields.include?.includes(LOG_PROBS) === true;
  const tools = responseTools(fields);
  const [begun] = await beginAnswers(model, asking, {
    messages: inputMessages(fields.input, fields.instructions ?? undefined),
    fields,
    maxNewTokens: fields.max_output_tokens ?? undefined,
    samples: 1,
    logProbs,
    topLogProbs: fields.top_logprobs ?? 0,
    tools,
    grammar: responseGrammar(fields),
    variables: reasoningVariables(fields),
  });
  const told = { answer: begun as ChatAnswer, head: headOf(fields, model) };
  const tokenizer = logProbs ? model.tokenizer : undefined;
  if (fields.stream) return { kind: 'stream', events: responseEvents(told.answer, told.head, tokenizer) };
  const [result] = await allResults([told.answer.text]);
  if (!result) throw new Error('a text has a result');
  const { reader, text } = told.answer;
  const likely = tokenizer ? await tokenLogProbs(result, tokenizer) : [];
  const items = itemsOf(joinParts([...reader.push(result.text), ...reader.end()]), likely);
  const usage = usageOf([text], result.tokens.length);
  return whole(responseBody(told.head, items, { finishReason: result.finishReason, usage }));
}

function headOf(fields: Fields, model: ServedModel): ResponseHead {
  const { sampling } = model.defaults;
  return {
    id: newId('resp_'),
    created_at: nowSeconds(),
    model: fields.model ?? (model.names[0] as string),
    instructions: fields.instructions ?? null,
    max_output_tokens: fields.max_output_tokens ?? null,
    temperature: fields.temperature ?? sampling.temperature,
    top_p: fields.top_p ?? sampling.topP,
    metadata: fields.metadata ?? {},
    parallel_tool_calls: fields.parallel_tool_calls ?? true,
    tools: fields.tools ?? [],
    tool_choice: fields.tool_choice ?? 'auto',
    text: { format: fields.text?.format ?? { type: 'text' } },
    reasoning: { effort: fields.reasoning?.effort ?? null, summary: null },
  };
}

function checkWishes(fields: Fields): void {
  const { truncation, background, top_logprobs: top, include } = fields;
  if (top && !include?.includes(LOG_PROBS)) {
    throw badField(
      'top_logprobs',
      `top_logprobs is told beside log-probabilities: add '${LOG_PROBS}' to include`,
    );
  }
  const stored =
    'asks for what was said before, and nothing is stored here: send the whole conversation as input';
  refuse(fields, {
    previous_response_id: stored,
    conversation: stored,
    prompt: 'names a stored prompt, and nothing is stored here: send it as instructions and input',
  });
  refuse(
    {
      truncation: truncation === 'auto' ? truncation : undefined,
      background: background || undefined,
    },
    {
      truncation: "may not be 'auto': a conversation that is too long is refused",
      background: 'is not supported: nothing is stored here, so the answer is to be waited for',
    },
  );
}
