// Items of a response: whatever an answer is made of, each item is opened, grows and is closed before the next one.

import { expect, it } from 'vitest';
import type { ChatAnswer } from '../../src/api/chat-answers.js';
import { responseEvents } from '../../src/api/response-events.js';
import { TextGeneration, type TokenSource } from '../../src/library/generation.js';
import type { AnswerPart, AnswerReader } from '../../src/tools/answer-parts.js';
import { eventsOf, type Json } from './served.js';

const HEAD = {
  id: 'resp_1',
  created_at: 1,
  model: 'm',
  instructions: null,
  max_output_tokens: null,
  temperature: 1,
  top_p: 1,
  metadata: {},
  parallel_tool_calls: true,
  tools: [],
  tool_choice: 'auto',
  text: { format: { type: 'text' } },
  reasoning: {},
};

/** An answer of these parts, one a token. */
function answerOf(parts: readonly AnswerPart[]): ChatAnswer {
  async function* tokens() {
    for (const token of parts.keys()) yield { token };
  }
  const source: TokenSource = {
    tokens: tokens(),
    finished: Promise.resolve('stop'),
    cancel: () => undefined,
    push: (token) => String(token),
    end: () => '',
    promptTokens: 3,
    seed: undefined,
  };
  const generation = new TextGeneration({ logProbs: false, signal: undefined }, async () => source);
  const reader: AnswerReader = { push: (text) => parts.slice(Number(text), Number(text) + 1), end: () => [] };
  return { text: { index: 0, generation, promptTokens: Int32Array.of(1, 2, 3) }, reader };
}

async function told(parts: readonly AnswerPart[]): Promise<Json[]> {
  return (await eventsOf(responseEvents(answerOf(parts), HEAD))).map(({ data }) => data as Json);
}

it('reasoning, text and calls become items in their order', async () => {
  const events = await told([
    { kind: 'reasoning', text: 'so ' },
    { kind: 'reasoning', text: 'what' },
    { kind: 'content', text: 'Let me see' },
    { kind: 'call', index: 0, id: 'a', name: 'look' },
    { kind: 'arguments', index: 0, text: '{"at":' },
    { kind: 'arguments', index: 0, text: '1}' },
    { kind: 'call', index: 1, id: 'b', name: 'leave' },
    { kind: 'arguments', index: 1, text: '{}' },
  ]);
  expect(events.map(({ sequence_number }) => sequence_number)).toEqual([...events.keys()]);
  let open: unknown;
  for (const { type, output_index } of events) {
    if (type === 'response.output_item.added') {
      expect(open).toBeUndefined();
      open = output_index;
    } else if (output_index !== undefined) expect(output_index).toBe(open);
    if (type === 'response.output_item.done') open = undefined;
  }
  expect(events.at(-1)).toMatchObject({
    type: 'response.completed',
    response: {
      status: 'completed',
      output: [
        { type: 'reasoning', content: [{ text: 'so what' }] },
        { type: 'message', content: [{ type: 'output_text', text: 'Let me see' }] },
        { type: 'function_call', call_id: 'a', name: 'look', arguments: '{"at":1}', status: 'completed' },
        { type: 'function_call', call_id: 'b', name: 'leave', arguments: '{}' },
      ],
      usage: { input_tokens: 3, output_tokens: 8 },
    },
  });
});

it('an answer that says nothing is an empty message', async () => {
  const events = await told([]);
  expect(events.at(-1)).toMatchObject({
    response: { output: [{ type: 'message', content: [{ text: '' }] }] },
  });
});
