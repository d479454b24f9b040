// One line of a prompts file: what to continue, and what it asks for itself; whatever else it says is refused by name.

import { OperatingError } from '../../../offload/index.js';
import { GREEDY, type SamplingSettings, unusableSetting } from '../../engine/sampler.js';
import { isJsonObject, type JsonObject, reason, show } from '../../files/json-file.js';
import type { Message } from '../../text/chat.js';
import { suggest } from '../../text/suggest.js';
import { DRAWING_NAMES, SAMPLING_NAMES } from '../options/sampling-options.js';
import { type OwnOptions, type Prompt, parseIdList } from './prompts.js';

/** What `--output` writes beside prompt and id, so that results can be prompts again. They say nothing of what to make. */
export const RESULT_KEYS = [
  'index',
  'sample',
  'text',
  'token_ids',
  'finish_reason',
  'prompt_tokens',
  'new_tokens',
  'error',
] as const;

const CONTENT_KEYS = ['prompt', 'prompt_token_ids', 'messages'] as const;

const LENGTH_KEYS = ['max_new_tokens', 'max_tokens'] as const;
const MOST_NEW_TOKENS = 2 ** 31 - 1;

const KNOWN_KEYS: readonly string[] = [
  ...CONTENT_KEYS,
  'id',
  ...LENGTH_KEYS,
  ...Object.keys(SAMPLING_NAMES),
  'stop',
  'ignore_eos',
  ...RESULT_KEYS,
];

/** Keys of other programs' requests, and what to do instead. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  n: 'give --num_samples, or the line several times',
  num_samples: 'give --num_samples, or the line several times',
  custom_id: "a batch of API requests is not read: write 'id', and what is in 'body', into the line itself",
  body: "a batch of API requests is not read: write what is in 'body' into the line itself",
  max_completion_tokens: "write 'max_tokens'",
  stop_sequences: "write 'stop'",
  system: "write 'messages' with a system message",
};

/** The line looks like JSON Lines for this program. */
export function isJsonPrompt(line: string): boolean {
  try {
    const value: unknown = JSON.parse(line);
    return isJsonObject(value) && [...CONTENT_KEYS, 'custom_id'].some((key) => key in value);
  } catch {
    return false;
  }
}

/**
 * @param where for messages: `line 3 of in.jsonl`
 * @param draws the run has a temperature
 * Throws BAD_INPUT.
 */
export function parseJsonPrompt(line: string, where: string, draws: boolean): Prompt {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new OperatingError('BAD_INPUT', `${where} is not JSON: ${reason(error)}`, { cause: error });
  }
  if (!isJsonObject(value)) throw new OperatingError('BAD_INPUT', `${where} is JSON, but not an object`);
  refuseUnknown(value, where);
  // null counts as absent: results of checkpoints without a tokenizer have it, and clients write it for defaults.
  const reader = new LineReader(
    Object.fromEntries(Object.entries(value).filter(([, one]) => one !== null)),
    where,
  );
  return { ...contentOf(reader), ...ownOptions(reader, draws) };
}

function refuseUnknown(value: JsonObject, where: string): void {
  for (const key of Object.keys(value)) {
    if (KNOWN_KEYS.includes(key)) continue;
    const instead = Object.hasOwn(ELSEWHERE, key) ? ELSEWHERE[key] : undefined;
    const meant = suggest(key, KNOWN_KEYS);
    const hint = instead ?? (meant === undefined ? 'leave it out' : `did you mean '${meant}'?`);
    throw new OperatingError('BAD_INPUT', `${where} has ${show(key)}, which says nothing here: ${hint}`);
  }
}

/** Values of a line by key, with one sentence for each that cannot be used. */
class LineReader {
  readonly #values: JsonObject;
  readonly where: string;

  constructor(values: JsonObject, where: string) {
    this.#values = values;
    this.where = where;
  }

  value(key: string): unknown {
    return this.#values[key];
  }

  has(key: string): boolean {
    return this.#values[key] !== undefined;
  }

  refuse(problem: string): never {
    throw new OperatingError('BAD_INPUT', `${this.where}${problem}`);
  }

  refuseValue(key: string, wanted: string): never {
    return this.refuse(`: '${key}' is ${show(this.value(key))}: give ${wanted}`);
  }

  number(key: string): number | undefined {
    const value = this.value(key);
    if (value === undefined || typeof value === 'number') return value;
    return this.refuseValue(key, 'a number');
  }
}

function contentOf(line: LineReader): Prompt {
  const given = CONTENT_KEYS.filter((key) => line.has(key));
  const [key] = given;
  if (key === undefined || given.length > 1) {
    const known = CONTENT_KEYS.map((one) => `'${one}'`).join(', ');
    return line.refuse(` has ${key === undefined ? 'none' : given.length} of ${known}: give one`);
  }
  const value = line.value(key);
  if (key === 'prompt_token_ids') return { tokenIds: parseIdList(value, `${line.where}: '${key}'`) };
  if (key === 'messages') return { messages: messagesOf(value, line) };
  if (typeof value !== 'string') return line.refuse(`: 'prompt' is no string`);
  return { text: wellFormed(value, key, line) };
}

const ROLES: readonly string[] = ['system', 'user', 'assistant'] satisfies Message['role'][];

/**
 * Messages as a conversation has them.
 * @param where for messages of errors
 * Throws BAD_INPUT.
 */
export function parseMessages(value: unknown, where: string): readonly Message[] {
  return messagesOf(value, new LineReader({}, where));
}

function messagesOf(value: unknown, line: LineReader): readonly Message[] {
  if (!Array.isArray(value) || value.length === 0) {
    return line.refuse(": 'messages' is no list of messages: give objects with 'role' and 'content'");
  }
  return value.map((message: unknown, index) => {
    const at = `'messages' ${index}`;
    if (!isJsonObject(message)) return line.refuse(`: ${at} is no object with 'role' and 'content'`);
    const { role, content, ...rest } = message;
    if (typeof role !== 'string' || !ROLES.includes(role)) {
      return line.refuse(`: ${at} has the role ${show(role)}: give one of ${ROLES.join(', ')}`);
    }
    if (typeof content !== 'string') {
      return line.refuse(`: ${at} has a content that is no string: other parts than text are not read`);
    }
    const [other] = Object.keys(rest).filter((key) => rest[key] !== null);
    if (other !== undefined)
      return line.refuse(`: ${at} has ${show(other)}, which is not read: leave it out`);
    return { role: role as Message['role'], content: wellFormed(content, at, line) };
  });
}

/** Half of a surrogate pair is no character, and would become another one without a word. */
function wellFormed(text: string, what: string, line: LineReader): string {
  return !/\p{Surrogate}/u.test(text)
    ? text
    : line.refuse(`: ${what} has half of a surrogate pair (\\ud800 to \\udfff), which is no character`);
}

function ownOptions(line: LineReader, draws: boolean): { own?: OwnOptions } {
  const [id, length, sampling, stop, eos] = [
    line.value('id'),
    lengthOf(line),
    samplingOf(line, draws),
    line.value('stop'),
    line.value('ignore_eos'),
  ];
  if (id !== undefined && typeof id !== 'string' && typeof id !== 'number') {
    return line.refuseValue('id', 'a string or a number');
  }
  if (eos !== undefined && typeof eos !== 'boolean') return line.refuseValue('ignore_eos', 'true or false');
  const own: OwnOptions = {
    ...(id === undefined ? {} : { id }),
    ...(length === undefined ? {} : { maxNewTokens: length }),
    ...(sampling === undefined ? {} : { sampling }),
    ...(stop === undefined ? {} : { stopStrings: stopStringsOf(stop, line) }),
    ...(eos === undefined ? {} : { ignoreEos: eos }),
  };
  return Object.keys(own).length > 0 ? { own } : {};
}

function lengthOf(line: LineReader): number | undefined {
  const [first, second] = LENGTH_KEYS.map((key) => {
    const value = line.number(key);
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1 && value <= MOST_NEW_TOKENS))
      return value;
    return line.refuseValue(key, `a whole number from 1 to ${MOST_NEW_TOKENS}`);
  });
  if (first !== undefined && second !== undefined && first !== second) {
    return line.refuse(
      ` has 'max_new_tokens' ${first} and 'max_tokens' ${second}, which mean the same: give one`,
    );
  }
  return first ?? second;
}

function samplingOf(line: LineReader, draws: boolean): Partial<SamplingSettings> | undefined {
  const given = Object.entries(SAMPLING_NAMES).filter(([key]) => line.has(key));
  if (given.length === 0) return undefined;
  const sampling = Object.fromEntries(
    given.map(([key, name]) => [name, line.number(key)]),
  ) as Partial<SamplingSettings>;
  const idle = DRAWING_NAMES.find((key) => line.has(key));
  if (!draws && sampling.temperature === undefined && idle !== undefined) {
    return line.refuse(
      ` has '${idle}', which is for drawing tokens: add 'temperature', or --temperature for all`,
    );
  }
  const wrong = unusableSetting({ ...GREEDY, ...sampling });
  return wrong ? line.refuseValue(wrong.option, wrong.wanted) : sampling;
}

function stopStringsOf(value: unknown, line: LineReader): readonly string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.map((one) => {
    if (typeof one !== 'string') return line.refuseValue('stop', 'a string or a list of strings');
    return one === ''
      ? line.refuse(": 'stop' is empty: give the text to stop before")
      : wellFormed(one, 'stop', line);
  });
}
