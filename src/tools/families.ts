// Which way a model writes calls and reasoning: told by its chat template, or by name.

import { OperatingError } from '../../offload/index.js';
import type { AnswerReader } from './answer-parts.js';
import { PLAIN_READER } from './answer-parts.js';
import type { CallFormat } from './call-format.js';
import { CallReader } from './call-reader.js';
import { DEEPSEEK } from './deepseek-calls.js';
import { HarmonyReader } from './harmony.js';
import { HERMES, LLAMA, MISTRAL } from './json-calls.js';
import { CALL_PARSERS, type CallParser, REASONING_PARSERS, type ReasoningParser } from './parser-names.js';
import { MISTRAL_THINK, type ReasoningMarks, ReasoningReader, THINK_TAGS } from './reasoning.js';
import { glm, qwenCoder } from './tagged-calls.js';
import type { Tool } from './tool.js';

/** How answers of a model are read. */
export interface AnswerStyle {
  readonly calls: CallParser | undefined;
  readonly reasoning: ReasoningParser | undefined;
}

/** Undefined: as the template says; `none`: not at all. Other names throw BAD_OPTION. */
export interface StyleOptions {
  readonly calls?: string | undefined;
  readonly reasoning?: string | undefined;
}

export function answerStyle(template: string, options: StyleOptions = {}): AnswerStyle {
  return {
    calls: chosen('tool_parser', options.calls, CALL_PARSERS, callsOf(template)),
    reasoning: chosen('reasoning_parser', options.reasoning, REASONING_PARSERS, reasoningOf(template)),
  };
}

function chosen<T extends string>(
  option: string,
  name: string | undefined,
  known: readonly T[],
  own: T | undefined,
): T | undefined {
  if (name === undefined || name === 'auto') return own;
  if (name === 'none') return undefined;
  const found = known.find((one) => one === name);
  if (found !== undefined) return found;
  throw new OperatingError(
    'BAD_OPTION',
    `--${option} is ${name}: give auto, none or one of ${known.join(', ')}`,
  );
}

/** What a template writes where it tells of calls, the most particular first. */
const CALLS_BY_TEXT: readonly (readonly [CallParser, (template: string) => boolean])[] = [
  ['openai', (text) => isHarmony(text)],
  ['mistral', (text) => text.includes('[TOOL_CALLS]')],
  ['deepseek_v3', (text) => text.includes('<｜tool▁calls▁begin｜>') && text.includes('```json')],
  ['deepseek_v31', (text) => text.includes('<｜tool▁calls▁begin｜>')],
  ['glm45', (text) => text.includes('<arg_key>')],
  ['qwen3_coder', (text) => text.includes('<function=')],
  ['hermes', (text) => text.includes('<tool_call>')],
  ['llama3_json', (text) => text.includes('"parameters"') && text.includes('ipython')],
];

function callsOf(template: string): CallParser | undefined {
  return CALLS_BY_TEXT.find(([, matches]) => matches(template))?.[0];
}

function reasoningOf(template: string): ReasoningParser | undefined {
  if (isHarmony(template)) return 'openai_gptoss';
  if (template.includes('[THINK]')) return 'mistral';
  if (!template.includes('</think>')) return undefined;
  return template.includes('<｜') ? 'deepseek_r1' : template.includes('<arg_key>') ? 'glm45' : 'qwen3';
}

function isHarmony(template: string): boolean {
  return template.includes('<|channel|>') && template.includes('<|message|>');
}

export function reasoningMarks(parser: ReasoningParser): ReasoningMarks | undefined {
  if (parser === 'openai_gptoss') return undefined;
  return parser === 'mistral' ? MISTRAL_THINK : THINK_TAGS;
}

export interface ReaderOptions {
  /** Empty: calls are not looked for. */
  readonly tools: readonly Tool[];
  /** What the answer follows: it may have opened the reasoning. */
  readonly prompt: string;
  /** In place of the model's own: calls were asked for in this format. */
  readonly format?: CallFormat | undefined;
}

/** Reads one answer. */
export function answerReader(style: AnswerStyle, { tools, prompt, format }: ReaderOptions): AnswerReader {
  const isHarmony = style.calls === 'openai' || style.reasoning === 'openai_gptoss';
  if (isHarmony && !format) return new HarmonyReader();
  const own = format ?? (tools.length > 0 && style.calls ? callFormat(style.calls, tools) : undefined);
  const rest = own ? new CallReader(own) : PLAIN_READER;
  const marks = style.reasoning && reasoningMarks(style.reasoning);
  return marks ? new ReasoningReader(marks, rest, isOpen(prompt, marks)) : rest;
}

export function isOpen(prompt: string, { open }: ReasoningMarks): boolean {
  return prompt.trimEnd().endsWith(open);
}

function callFormat(parser: CallParser, tools: readonly Tool[]): CallFormat | undefined {
  switch (parser) {
    case 'hermes':
      return HERMES;
    case 'qwen3_coder':
      return qwenCoder(tools);
    case 'llama3_json':
      return LLAMA;
    case 'mistral':
      return MISTRAL;
    case 'glm45':
      return glm(tools);
    case 'deepseek_v3':
    case 'deepseek_v31':
      return DEEPSEEK;
    case 'openai':
      return undefined;
  }
}

/** Marks that a tokenizer may hold as special tokens: they are part of the text that is read. */
export const MARKS: readonly string[] = [
  '<tool_call>',
  '</tool_call>',
  '<think>',
  '</think>',
  '<arg_key>',
  '</arg_key>',
  '<arg_value>',
  '</arg_value>',
  '<|python_tag|>',
  '[TOOL_CALLS]',
  '[ARGS]',
  '[CALL_ID]',
  '[THINK]',
  '[/THINK]',
  '<｜tool▁calls▁begin｜>',
  '<｜tool▁calls▁end｜>',
  '<｜tool▁call▁begin｜>',
  '<｜tool▁call▁end｜>',
  '<｜tool▁sep｜>',
  '<|start|>',
  '<|end|>',
  '<|message|>',
  '<|channel|>',
  '<|constrain|>',
  '<|call|>',
  '<|return|>',
];
