// Answers that obey: schemas, expressions and calls that have to come, from a model that was trained on verse alone.

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { modelFolder } from '../helpers/fixtures.js';
import { ASKING, eventsOf, type Served, serve } from './served.js';

const TEMPLATE =
  '{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:';
const TOOLS = [
  {
    type: 'function',
    function: {
      name: 'crown',
      parameters: {
        type: 'object',
        properties: {
          who: { enum: ['Richard', 'Henry'] },
          times: { type: 'integer', minimum: 1, maximum: 9 },
        },
        required: ['who', 'times'],
        additionalProperties: false,
      },
    },
  },
  { type: 'function', function: { name: 'flee', parameters: { type: 'object', properties: {} } } },
];
const SCHEMA = {
  type: 'object',
  properties: { king: { enum: ['Richard', 'Henry'] }, years: { type: 'integer', minimum: 0, maximum: 99 } },
  required: ['king', 'years'],
  additionalProperties: false,
};

let folder: string;
let served: Served;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'obeyed-'));
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  served = await serve(folder, { obeys: true, contextTokens: 1024, sequences: 4 });
});

afterAll(async () => {
  await served.engine.close();
  await served.model.answers?.grammars.close();
  rmSync(folder, { recursive: true });
});

interface Choice {
  readonly finish_reason: string;
  readonly message: {
    readonly content: string | null;
    readonly tool_calls?: readonly {
      readonly function: { readonly name: string; readonly arguments: string };
    }[];
  };
}

const MESSAGES = [{ role: 'user', content: 'Who is king?' }];

async function ask(more: object): Promise<readonly Choice[]> {
  const body = { messages: MESSAGES, max_tokens: 300, seed: 5, ...more };
  const reply = await served.api.answer('/v1/chat/completions', body, ASKING);
  if (reply.kind !== 'whole') throw new Error('a stream');
  const { choices, error } = reply.body as { choices: readonly Choice[]; error?: { message: string } };
  if (error) throw new Error(error.message);
  return choices;
}

it('every choice obeys a JSON schema', async () => {
  const format = { type: 'json_schema', json_schema: { name: 'answer', schema: SCHEMA } };
  const choices = await ask({ response_format: format, n: 4 });
  for (const { finish_reason: reason, message } of choices) {
    expect(reason).toBe('stop');
    const { king, years, ...rest } = JSON.parse(message.content ?? '') as Record<string, unknown>;
    expect(['Richard', 'Henry']).toContain(king);
    expect(Number.isInteger(years) && rest).toEqual({});
  }
});

it('regular expressions, choices and rules', async () => {
  const content = async (more: object) => (await ask(more))[0]?.message.content;
  expect(await content({ structured_outputs: { regex: '[0-9]{3}-[a-c]+x' } })).toMatch(/^\d{3}-[a-c]+x$/);
  expect(['aye', 'no "more"']).toContain(await content({ guided_choice: ['aye', 'no "more"'] }));
  expect(await content({ guided_grammar: 'root ::= "so " ("be it" | "it goes")' })).toMatch(
    /^so (be it|it goes)$/,
  );
});

it('a call that has to come, of one tool or another, and in pieces', async () => {
  const [{ finish_reason: reason, message } = {} as Choice] = await ask({
    tools: TOOLS,
    tool_choice: { type: 'function', function: { name: 'crown' } },
  });
  expect([reason, message.content, message.tool_calls?.length]).toEqual(['tool_calls', null, 1]);
  const [call] = message.tool_calls ?? [];
  expect(call?.function.name).toBe('crown');
  const given = JSON.parse(call?.function.arguments ?? '') as { who: string; times: number };
  expect(given.times >= 1 && given.times <= 9 && ['Richard', 'Henry'].includes(given.who)).toBe(true);

  const body = { messages: MESSAGES, max_tokens: 300, seed: 6, stream: true };
  const streamed = await served.api.answer(
    '/v1/chat/completions',
    { ...body, tools: TOOLS, tool_choice: 'required', parallel_tool_calls: false },
    ASKING,
  );
  if (streamed.kind !== 'stream') throw new Error('no stream');
  const text = JSON.stringify(await eventsOf(streamed.events));
  expect(text).toMatch(/"name":"(crown|flee)"/);
  expect(text).toContain('"finish_reason":"tool_calls"');
});

it('what is no grammar is refused, and says why; the next one is none the worse', async () => {
  const refused = (more: object) => expect(ask(more)).rejects;
  const schema = (own: object) => ({
    response_format: { type: 'json_schema', json_schema: { schema: own } },
  });
  await refused(schema({ type: 'king' })).toThrow(/grammar cannot be used: .*king/);
  await refused(schema({ type: 'array', uniqueItems: true })).toThrow(
    /uniqueItems of the JSON schema is not/,
  );
  await refused({ guided_regex: '(a' }).toThrow(/parenthesis/);
  await refused({ guided_regex: 'a', response_format: { type: 'json_object' } }).toThrow(/one format/);
  await refused({ tools: TOOLS, tool_choice: { type: 'function', function: { name: 'x' } } }).toThrow(
    /not among/,
  );
  const [next] = await ask({ guided_regex: 'ab' });
  expect(next?.message.content).toBe('ab');
});

it('a cut text has the length as its reason', async () => {
  const [choice] = await ask({ guided_regex: 'a{200}', max_tokens: 5 });
  expect(choice?.finish_reason).toBe('length');
  expect(choice?.message.content).toMatch(/^a+$/);
});
