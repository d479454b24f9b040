// Clients of two makes find all that they ask for, streamed and whole, and know what is wrong by their own errors.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI, { AuthenticationError, BadRequestError, NotFoundError } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharedFolder } from '../helpers/temp-folder.js';
import { chatModel, type Listening, listen } from './listening.js';

const KEY = 'a-long-random-key';
const newFolder = sharedFolder();
let server: Listening;
let client: OpenAI;

beforeAll(async () => {
  server = await listen(chatModel(newFolder()), { keys: ['another-key', KEY] });
  client = new OpenAI({ baseURL: `${server.address}/v1`, apiKey: KEY, maxRetries: 0 });
});

afterAll(() => server.close());

const messages = [{ role: 'user' as const, content: 'Who are you?' }];
const asked = { model: 'small', messages, max_tokens: 16, temperature: 0 };

describe('the client of OpenAI', () => {
  it('lists models and finds one', async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(['small', 'also-small']);
    expect((await client.models.retrieve('also-small')).id).toBe('also-small');
    await expect(client.models.retrieve('org/other')).rejects.toThrow(NotFoundError);
  });

  it('has chats answered, whole as streamed', async () => {
    const whole = await client.chat.completions.create({ ...asked, n: 2, logprobs: true });
    expect(whole.choices.map(({ finish_reason }) => finish_reason)).toEqual(['length', 'length']);
    expect(whole.usage?.completion_tokens).toBe(32);
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    });
    let [text, usage] = ['', 0];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage?.completion_tokens ?? usage;
    }
    expect(text).toBe(whole.choices[0]?.message.content);
    expect(usage).toBe(16);
    const runner = client.chat.completions.stream(asked);
    expect((await runner.finalChatCompletion()).choices[0]?.message.content).toBe(text);
  });

  it('has texts continued, whole as streamed', async () => {
    const prompt = { model: 'small', prompt: 'KING RICHARD III:', max_tokens: 16, temperature: 0 };
    const whole = await client.completions.create({ ...prompt, logprobs: 0 });
    const stream = await client.completions.create({ ...prompt, stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
    expect(text).toBe(whole.choices[0]?.text);
    expect(whole.choices[0]?.logprobs?.tokens?.join('')).toBe(text);
  });

  it('has responses, whole as streamed, whose events put together are the response', async () => {
    const wanted = { model: 'small', input: 'Who are you?', max_output_tokens: 16, temperature: 0 };
    const chat = await client.chat.completions.create(asked);
    const whole = await client.responses.create(wanted);
    expect(whole.output_text).toBe(chat.choices[0]?.message.content);
    expect(whole).toMatchObject({
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
    });
    expect(whole.usage?.output_tokens).toBe(16);
    const items = [
      { role: 'user' as const, content: [{ type: 'input_text' as const, text: 'Who are you?' }] },
    ];
    const stream = client.responses.stream({ ...wanted, input: items });
    const types: string[] = [];
    let text = '';
    for await (const event of stream) {
      if (types.at(-1) !== event.type) types.push(event.type);
      if (event.type === 'response.output_text.delta') text += event.delta;
    }
    expect(text).toBe(whole.output_text);
    expect((await stream.finalResponse()).output_text).toBe(text);
    expect(types).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.incomplete',
    ]);
    const stored = client.responses.create({ ...wanted, previous_response_id: 'resp_1' });
    await expect(stored).rejects.toMatchObject({ status: 400, param: 'previous_response_id' });
  });

  it('knows what is wrong by its own errors', async () => {
    const wrong = client.chat.completions.create({ ...asked, max_tokens: 1e6 });
    await expect(wrong).rejects.toThrow(BadRequestError);
    await expect(wrong).rejects.toMatchObject({ code: 'context_length_exceeded' });
    const unknown = { ...asked, temprature: 1 };
    await expect(client.chat.completions.create(unknown)).rejects.toMatchObject({
      status: 400,
      param: 'temprature',
    });
    await expect(client.chat.completions.create({ ...asked, model: 'other' })).rejects.toThrow(NotFoundError);
    await expect(client.embeddings.create({ model: 'small', input: 'a' })).rejects.toThrow(/no embeddings/);
    const stranger = new OpenAI({ baseURL: `${server.address}/v1`, apiKey: 'guessed-key', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(AuthenticationError);
    const toOne = client.chat.completions.create({ ...asked, max_tokens: 1e6, stream: true });
    await expect(toOne).rejects.toThrow(BadRequestError);
  });

  it('may leave a stream', async () => {
    const stream = await client.chat.completions.create({ ...asked, max_tokens: 200, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    await server.engine.whenIdle();
  });
});

it('the ai package has chats answered, whole as streamed', async () => {
  const provider = createOpenAICompatible({
    name: 'local',
    baseURL: `${server.address}/v1`,
    apiKey: KEY,
    includeUsage: true,
  });
  const settings = { model: provider('small'), prompt: 'Who are you?', maxOutputTokens: 16, temperature: 0 };
  const whole = await generateText(settings);
  expect(whole.usage.outputTokens).toBe(16);
  expect(whole.finishReason).toBe('length');
  const stream = streamText(settings);
  let text = '';
  for await (const piece of stream.textStream) text += piece;
  expect(text).toBe(whole.text);
  expect((await stream.usage).outputTokens).toBe(16);
});
