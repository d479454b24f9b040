// Answers of each family: calls and reasoning told from text, the same however the text is cut, and nothing lost where a call is none.

import { describe, expect, it } from 'vitest';
import { joinParts } from '../../src/tools/answer-parts.js';
import { type AnswerStyle, answerReader } from '../../src/tools/families.js';
import { JSON_LIST } from '../../src/tools/json-calls.js';
import type { Tool } from '../../src/tools/tool.js';
import { randomFrom } from '../helpers/random.js';

const TOOLS: readonly Tool[] = [
  {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' }, days: { type: 'integer' }, units: { type: 'array' } },
    },
  },
  { name: 'now' },
];

interface Case {
  readonly what: string;
  readonly style: AnswerStyle;
  readonly text: string;
  readonly prompt?: string;
  readonly isForced?: boolean;
  readonly content?: string;
  readonly reasoning?: string;
  readonly calls?: readonly (readonly [string, unknown])[];
}

const style = (calls: AnswerStyle['calls'], reasoning?: AnswerStyle['reasoning']): AnswerStyle => ({
  calls,
  reasoning,
});
const PARIS = ['get_weather', { city: 'Paris', days: 3 }] as const;

const CASES: readonly Case[] = [
  {
    what: 'Hermes: text, then two calls on lines of their own',
    style: style('hermes'),
    text: 'I look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    content: 'I look.',
    calls: [PARIS, ['now', {}]],
  },
  {
    what: 'Hermes: end tags, braces and quotes within an argument',
    style: style('hermes'),
    text: '<tool_call>{"arguments": {"city": "a}</tool_call>\\"{"}, "name": "get_weather"}</tool_call>',
    calls: [['get_weather', { city: 'a}</tool_call>"{' }]],
  },
  {
    what: 'Hermes: a call that is no JSON stays text',
    style: style('hermes'),
    text: 'So: <tool_call>\n{"name": get_weather}\n</tool_call> and <tool_call> is a tag',
    content: 'So: <tool_call>\n{"name": get_weather}\n</tool_call> and <tool_call> is a tag',
  },
  {
    what: 'Hermes: a call that was cut off stays text',
    style: style('hermes'),
    text: '<tool_call>\n{"name": "now", "argum',
    content: '<tool_call>\n{"name": "now", "argum',
  },
  {
    what: 'Hermes: text between and behind calls',
    style: style('hermes'),
    text: 'a <tool_call>{"name": "now"}</tool_call> b  \n<tool_call>{"name": "now", "arguments": "{}"}</tool_call>\nc\n',
    content: 'a b\nc',
    calls: [
      ['now', {}],
      ['now', {}],
    ],
  },
  {
    what: 'Qwen 3: reasoning, then an answer',
    style: style('hermes', 'qwen3'),
    text: '<think>\nHm, <tool_call> or not?\n</think>\n\nNo. 1 < 2',
    reasoning: 'Hm, <tool_call> or not?',
    content: 'No. 1 < 2',
  },
  {
    what: 'Qwen 3: reasoning that the prompt has opened, then a call',
    style: style('hermes', 'qwen3'),
    prompt: '<|im_start|>assistant\n<think>\n',
    text: 'Weather.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
    reasoning: 'Weather.',
    calls: [PARIS],
  },
  {
    what: 'Qwen 3: no reasoning',
    style: style('hermes', 'qwen3'),
    text: '  <thin air',
    content: '  <thin air',
  },
  {
    what: 'reasoning that was cut off',
    style: style(undefined, 'deepseek_r1'),
    prompt: '<｜Assistant｜><think>\n',
    text: 'one two </thin',
    reasoning: 'one two </thin',
  },
  {
    what: 'Qwen 3 Coder: typed arguments, and lines within one',
    style: style('qwen3_coder'),
    text: 'Go.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n42\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=units>\n["a",\n"b"]\n</parameter>\n</function>\n</tool_call>',
    content: 'Go.',
    calls: [['get_weather', { city: '42', days: 3, units: ['a', 'b'] }]],
  },
  {
    what: 'Qwen 3 Coder: what is no argument makes it text',
    style: style('qwen3_coder'),
    text: '<tool_call>\n<function=now>\nplease\n</function>\n</tool_call>',
    content: '<tool_call>\n<function=now>\nplease\n</function>\n</tool_call>',
  },
  {
    what: 'Llama 3: a bare object',
    style: style('llama3_json'),
    text: '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
    calls: [PARIS],
  },
  {
    what: 'Llama 3: behind its token, two of them',
    style: style('llama3_json'),
    text: '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
    calls: [['now', {}], PARIS],
  },
  {
    what: 'Llama 3: an object that is no call, and one within text',
    style: style('llama3_json'),
    text: '{"weather": "fine"} and {"name": "now", "parameters": {}}',
    content: '{"weather": "fine"} and {"name": "now", "parameters": {}}',
  },
  {
    what: 'Mistral up to version 7: a list',
    style: style('mistral'),
    text: 'Well.[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", "arguments": {}}]',
    content: 'Well.',
    calls: [PARIS, ['now', {}]],
  },
  {
    what: 'Mistral since: names and arguments',
    style: style('mistral', 'mistral'),
    text: '[THINK]Which?[/THINK][TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now{}',
    reasoning: 'Which?',
    calls: [PARIS, ['now', {}]],
  },
  {
    what: 'Mistral: an id between name and arguments',
    style: style('mistral'),
    text: '[TOOL_CALLS]now[CALL_ID]abc123def[ARGS]{}',
    calls: [['now', {}]],
  },
  {
    what: 'GLM 4.5',
    style: style('glm45', 'glm45'),
    text: '\n<think>Paris it is.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>',
    reasoning: 'Paris it is.',
    calls: [PARIS, ['now', {}]],
  },
  {
    what: 'DeepSeek V3: arguments in a block of code',
    style: style('deepseek_v3'),
    text: 'Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    content: 'Let me see.',
    calls: [PARIS, ['now', {}]],
  },
  {
    what: 'DeepSeek V3.1',
    style: style('deepseek_v31', 'deepseek_r1'),
    prompt: '<｜Assistant｜><think>',
    text: 'Paris.</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris", "days": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    reasoning: 'Paris.',
    calls: [PARIS],
  },
  {
    what: 'DeepSeek: no arguments that are JSON',
    style: style('deepseek_v31'),
    text: '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{oh<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    content:
      '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{oh<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
  },
  {
    what: 'Harmony: analysis, a preamble, a call',
    style: style('openai', 'openai_gptoss'),
    text: '<|channel|>analysis<|message|>Need <weather>.<|end|><|start|>assistant<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris", "days": 3}',
    reasoning: 'Need <weather>.',
    content: 'I look it up.',
    calls: [PARIS],
  },
  {
    what: 'Harmony: the receiver before the channel, then an answer',
    style: style('openai', 'openai_gptoss'),
    text: ' to=functions.now<|channel|>commentary json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Done.',
    content: 'Done.',
    calls: [['now', {}]],
  },
  {
    what: 'Harmony: a header that breaks off',
    style: style('openai', 'openai_gptoss'),
    text: '<|channel|>final<|message|>Yes.<|end|><|start|>assis',
    content: 'Yes.<|start|>assis',
  },
  {
    what: 'a list that was asked for',
    style: style('mistral'),
    isForced: true,
    text: '[{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", "arguments": {}}]',
    calls: [PARIS, ['now', {}]],
  },
];

function read(one: Case, cuts: readonly number[]) {
  const { style: own, prompt = '', isForced, text } = one;
  const reader = answerReader(own, { tools: TOOLS, prompt, ...(isForced ? { format: JSON_LIST } : {}) });
  const ends = [...cuts, text.length];
  const parts = ends.flatMap((end, at) => reader.push(text.slice(ends[at - 1] ?? 0, end)));
  return joinParts([...parts, ...reader.end()]);
}

describe.each(CASES)('$what', (one) => {
  it('whole', () => {
    const { content, reasoning, calls } = read(one, []);
    expect({ content, reasoning }).toEqual({ content: one.content ?? '', reasoning: one.reasoning ?? '' });
    expect(calls.map((call) => [call.name, JSON.parse(call.arguments)])).toEqual(one.calls ?? []);
    expect(new Set(calls.map(({ id }) => id)).size).toBe(calls.length);
  });

  it('in any pieces', () => {
    const random = randomFrom(7);
    const plain = ({ content, reasoning, calls }: ReturnType<typeof read>) => ({
      content,
      reasoning,
      calls: calls.map(({ name, arguments: given }) => [name, given]),
    });
    const whole = plain(read(one, []));
    const letters = Array.from({ length: one.text.length }, (_, at) => at);
    expect(plain(read(one, letters))).toEqual(whole);
    for (let round = 0; round < 100; round++) {
      const share = random();
      const cuts = letters.filter(() => random() < share);
      expect(plain(read(one, cuts))).toEqual(whole);
    }
  });
});
