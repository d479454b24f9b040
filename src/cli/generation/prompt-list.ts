// Lists of prompts: those of options, and those of a file or pipe, which are read again when they are needed.

import { OperatingError, present } from '../../../offload/index.js';
import type { InputName } from '../../files/input.js';
import { shownName } from '../../files/input.js';
import { LineStore } from '../../files/line-store.js';
import { readLines, textOfLine } from '../../files/text-file.js';
import type { PromptsFormat } from '../options/generate-options.js';
import { isJsonPrompt, parseJsonPrompt } from './prompt-line.js';
import type { Prompt } from './prompts.js';

export interface PromptList {
  readonly length: number;
  /** Memory that it takes for as long as it is there. */
  readonly heldBytes: number;
  at(index: number): Prompt;
  /** Some prompt needs a tokenizer; has messages; has stop strings of its own. */
  readonly has: PromptTraits;
}

export interface PromptTraits {
  readonly text: boolean;
  readonly messages: boolean;
  readonly stopStrings: boolean;
}

export function listOf(prompts: readonly Prompt[]): PromptList {
  return {
    length: prompts.length,
    heldBytes: 0,
    at: (index) => present(prompts[index], 'prompt'),
    has: traitsOf(prompts),
  };
}

/** The same prompts in turn, `length` of them. */
export function repeated(list: PromptList, length: number): PromptList {
  return { length, heldBytes: list.heldBytes, has: list.has, at: (index) => list.at(index % list.length) };
}

function traitsOf(prompts: Iterable<Prompt>): PromptTraits {
  const has = { text: false, messages: false, stopStrings: false };
  for (const prompt of prompts) addTraits(has, prompt);
  return has;
}

function addTraits(has: { -readonly [name in keyof PromptTraits]: boolean }, prompt: Prompt): void {
  has.text ||= 'text' in prompt;
  has.messages ||= 'messages' in prompt;
  has.stopStrings ||= (prompt.own?.stopStrings?.length ?? 0) > 0;
}

export interface ReadingOptions {
  readonly format: PromptsFormat;
  /** The run has a temperature. */
  readonly draws: boolean;
  /** After each piece, with the prompts so far. */
  readonly onProgress?: (prompts: number) => void;
}

/**
 * All prompts of an input, each line checked. JSON Lines by its name or by its first line, otherwise a prompt a line;
 * blank lines are skipped in both. Throws NOT_FOUND, or BAD_INPUT with the line.
 */
export async function readPrompts(input: InputName, options: ReadingOptions): Promise<PromptList> {
  const { draws, onProgress } = options;
  const name = shownName(input.path);
  const has = { text: false, messages: false, stopStrings: false };
  let json = isJsonByName(input.path, options.format);
  const parse = (text: string, number: number): Prompt =>
    json ? parseJsonPrompt(text, `line ${number} of ${name}`, draws) : { text };
  let store: LineStore | undefined;
  for await (const lines of readLines(input)) {
    store ??= new LineStore(input);
    for (const line of lines) {
      const text = textOfLine(line, input);
      if (text.trim() === '') continue;
      json ??= isJsonPrompt(text);
      addTraits(has, parse(text, line.number));
      store.add(line);
    }
    onProgress?.(store.length);
  }
  const kept = store;
  return {
    length: kept?.length ?? 0,
    get heldBytes() {
      return kept?.heldBytes ?? 0;
    },
    has,
    at: (index) => {
      const lines = present(kept, 'lines');
      return parse(lines.textOf(index), lines.numberOf(index));
    },
  };
}

/** Undefined: the first line decides. */
function isJsonByName(path: string, format: PromptsFormat): boolean | undefined {
  if (format !== 'auto') return format === 'jsonl';
  return /\.(jsonl|ndjson|json)$/i.test(path) ? true : undefined;
}

export function noPrompts(path: string): OperatingError {
  return new OperatingError('BAD_INPUT', `${shownName(path)} has no prompts: write one a line`);
}
