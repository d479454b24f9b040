// Clients of two makes get calls of tools and answers that obey schemas, in their own forms, streamed and whole.

import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, streamText, type ToolSet, tool } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { type Listening, listen } from './listening.js';

const TEMPLATE =
  '{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}' +
  '{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %};{% endfor %}a:';
const CROWN = {
  type: 'object' as const,
  properties: {
    who: { type: 'string' as const, enum: ['Richard', 'Henry'] },
    times: { type: 'integer' as const, minimum: 1, maximum: 9 },
  },
  required: ['who', 'times'],
  additionalProperties: false,
};
const FUNCTION = { name: 'crown', description: 'Makes a king', parameters: CROWN, strict: true };

const newFolder = sharedFolder();
let server: Listening;
let client: OpenAI;

beforeAll(async () => {
  const folder = join(newFolder(), 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  server = await listen(folder, {}, { obeys: true, contextTokens: 1024, sequences: 4 });
  client = new OpenAI({ baseURL: `${server.address}/v1`, apiKey: 'none', maxRetries: 0 });
});

afterAll(async () => {
  await server.close();
  await server.model.answers?.grammars.close();
});

function checkKing(given: unknown): void {
  const { who, times, ...rest } = given as { who: string; times: number };
  expect(['Richard', 'Henry']).toContain(who);
  expect(Number.isInteger(times) && times >= 1 && times <= 9 && Object.keys(rest).length === 0).toBe(true);
}

describe('the client of OpenAI', () => {
  const messages = [{ role: 'user' as const, content: 'Who is king?' }];
  const chat = { model: 'small', messages, max_tokens: 300, seed: 3 };
  const response = { model: 'small', input: 'Who is king?', max_output_tokens: 300 };
  const flat = { type: 'function' as const, ...FUNCTION };

  it('has tools called in chats, whole as streamed', async () => {
    const asked = {
      ...chat,
      tools: [{ type: 'function' as const, function: FUNCTION }],
      tool_choice: 'required' as const,
      parallel_tool_calls: false,
    };
    const { choices } = await client.chat.completions.create(asked);
    const [call] = choices[0]?.message.tool_calls ?? [];
    if (call?.type !== 'function') throw new Error('no call');
    checkKing(JSON.parse(call.function.arguments));
    const runner = client.chat.completions.stream(asked);
    const final = await runner.finalChatCompletion();
    const [streamed] = final.choices[0]?.message.tool_calls ?? [];
    if (streamed?.type !== 'function') throw new Error('no call');
    expect(streamed.function).toMatchObject({ name: 'crown', arguments: call.function.arguments });
    // What the tool said goes on as a conversation.
    const told = await client.chat.completions.create({
      ...chat,
      max_tokens: 4,
      messages: [
        ...messages,
        { role: 'assistant', tool_calls: [call] },
        { role: 'tool', tool_call_id: call.id, content: 'Crowned.' },
      ],
    });
    expect(told.choices[0]?.finish_reason).toBe('length');
  });

  it('has tools called in responses, whole as streamed, and tells what came of it', async () => {
    const asked = {
      ...response,
      tools: [flat],
      tool_choice: { type: 'function' as const, name: 'crown' },
      parallel_tool_calls: false,
    };
    const whole = await client.responses.create(asked);
    expect(whole.status).toBe('completed');
    expect(whole.tools[0]).toMatchObject({ name: 'crown' });
    const [call] = whole.output.filter((item) => item.type === 'function_call');
    checkKing(JSON.parse(call?.arguments ?? ''));
    const stream = client.responses.stream(asked);
    let given = '';
    for await (const event of stream) {
      if (event.type === 'response.function_call_arguments.delta') given += event.delta;
    }
    checkKing(JSON.parse(given));
    const final = await stream.finalResponse();
    expect(final.output).toMatchObject([{ type: 'function_call', name: 'crown', arguments: given }]);
    const more = await client.responses.create({
      ...response,
      max_output_tokens: 4,
      input: [
        { role: 'user', content: 'Who is king?' },
        ...whole.output.filter((item) => item.type === 'function_call'),
        { type: 'function_call_output', call_id: call?.call_id ?? '', output: 'Crowned.' },
      ],
    });
    expect(more.incomplete_details?.reason).toBe('max_output_tokens');
    // The template has written the call and its output.
    const plain = await client.responses.create({ ...response, max_output_tokens: 4 });
    expect(more.usage?.input_tokens).toBeGreaterThan((plain.usage?.input_tokens ?? 0) + 20);
  });

  it('has schemas obeyed in chats and responses', async () => {
    const schema = { name: 'king', schema: CROWN, strict: true };
    const answer = await client.chat.completions.parse({
      ...chat,
      response_format: { type: 'json_schema', json_schema: schema },
    });
    checkKing(JSON.parse(answer.choices[0]?.message.content ?? ''));
    const format = { type: 'json_schema' as const, ...schema };
    const { output_text: text } = await client.responses.create({ ...response, text: { format } });
    checkKing(JSON.parse(text));
  });
});

describe('the ai package', () => {
  const model = () =>
    createOpenAICompatible({
      name: 'local',
      baseURL: `${server.address}/v1`,
      supportsStructuredOutputs: true,
    })('small');
  const prompt = { prompt: 'Who is king?', maxOutputTokens: 300, seed: 4 };
  const tools: ToolSet = {
    crown: tool({
      description: 'Makes a king',
      inputSchema: jsonSchema(CROWN),
    }),
  };

  it('has tools called, whole as streamed', async () => {
    const asked = { ...prompt, tools, toolChoice: 'required' as const };
    const { toolCalls, finishReason } = await generateText({ ...asked, model: model() });
    expect(finishReason).toBe('tool-calls');
    expect(toolCalls.length).toBeGreaterThan(0);
    for (const { input } of toolCalls) checkKing(input);
    const streamed = await streamText({ ...asked, model: model() }).toolCalls;
    expect(streamed.map(({ input }) => input)).toEqual(toolCalls.map(({ input }) => input));
  });

  it('has a schema obeyed', async () => {
    const { object } = await generateObject({ ...prompt, model: model(), schema: jsonSchema(CROWN) });
    checkKing(object);
  });
});
