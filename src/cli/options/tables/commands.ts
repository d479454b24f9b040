// The commands, and what each is told by options.

import { BATCH_EXAMPLES, BATCH_OPTIONS } from './batch.js';
import { CACHE_ACTIONS, CACHE_EXAMPLES, CACHE_OPTIONS } from './cache.js';
import { CHAT_EXAMPLES, CHAT_OPTIONS } from './chat.js';
import { COMPLETION_EXAMPLES, COMPLETION_OPTIONS, SHELLS } from './completion.js';
import { DOCTOR_EXAMPLES, DOCTOR_OPTIONS } from './doctor.js';
import { GENERATE_EXAMPLES, GENERATE_OPTIONS } from './generate.js';
import { MERGE_EXAMPLES, MERGE_OPTIONS } from './merge.js';
import { PACK_EXAMPLES, PACK_OPTIONS } from './pack.js';
import { PLAN_EXAMPLES, PLAN_OPTIONS } from './plan.js';
import {
  COLLECT_EXAMPLES,
  COLLECT_OPTIONS,
  STATUS_EXAMPLES,
  STATUS_OPTIONS,
  SUBMIT_EXAMPLES,
  SUBMIT_OPTIONS,
  WORKER_EXAMPLES,
  WORKER_OPTIONS,
} from './queue.js';
import { SCORE_EXAMPLES, SCORE_OPTIONS } from './score.js';
import { SERVE_EXAMPLES, SERVE_OPTIONS } from './serve.js';
import type { OptionSpec, OptionTable } from './spec.js';

export type CommandName =
  | 'generate'
  | 'chat'
  | 'serve'
  | 'batch'
  | 'score'
  | 'plan'
  | 'merge'
  | 'submit'
  | 'worker'
  | 'status'
  | 'collect'
  | 'pack'
  | 'doctor'
  | 'cache'
  | 'completion';

export interface Command {
  readonly describe: string;
  /** What words after it are: its model, as that of --name, or what the command itself makes of them. */
  readonly words?: 'MODEL' | 'WORDS';
  /** What the first of its words may be, where that is not its model. */
  readonly choices?: readonly string[];
  readonly options: OptionTable;
  /** What to type, and what it does. */
  readonly examples: readonly (readonly [string, string])[];
}

/** What is run where no command is named. */
export const DEFAULT_COMMAND = 'generate';

export const COMMANDS: Readonly<Record<CommandName, Command>> = {
  generate: {
    describe: 'Continue prompts (the default command)',
    words: 'MODEL',
    options: GENERATE_OPTIONS,
    examples: GENERATE_EXAMPLES,
  },
  chat: {
    describe: 'A conversation in the terminal, or a message per line of standard input',
    words: 'MODEL',
    options: CHAT_OPTIONS,
    examples: CHAT_EXAMPLES,
  },
  serve: {
    describe: "Serve a model by OpenAI's API",
    words: 'MODEL',
    options: SERVE_OPTIONS,
    examples: SERVE_EXAMPLES,
  },
  batch: {
    describe: "Answer a file of OpenAI's batch requests, without a server",
    words: 'MODEL',
    options: BATCH_OPTIONS,
    examples: BATCH_EXAMPLES,
  },
  score: {
    describe: 'Mean negative log-likelihood and perplexity of a text',
    words: 'MODEL',
    options: SCORE_OPTIONS,
    examples: SCORE_EXAMPLES,
  },
  plan: {
    describe: 'Where everything would rest and how long a step would take, before anything is loaded',
    words: 'MODEL',
    options: PLAN_OPTIONS,
    examples: PLAN_EXAMPLES,
  },
  merge: {
    describe: 'Put the shares that several runs with --shard have made into one file',
    words: 'WORDS',
    options: MERGE_OPTIONS,
    examples: MERGE_EXAMPLES,
  },
  submit: {
    describe: 'Put a file of prompts into a queue, for workers on any machines',
    words: 'MODEL',
    options: SUBMIT_OPTIONS,
    examples: SUBMIT_EXAMPLES,
  },
  worker: {
    describe: 'Make texts for the prompts of a queue, until all are made',
    words: 'MODEL',
    options: WORKER_OPTIONS,
    examples: WORKER_EXAMPLES,
  },
  status: {
    describe: 'How far the job of a queue is, and who works on it',
    options: STATUS_OPTIONS,
    examples: STATUS_EXAMPLES,
  },
  collect: {
    describe: 'Write the results of a queue to a file, until all are there',
    options: COLLECT_OPTIONS,
    examples: COLLECT_EXAMPLES,
  },
  pack: {
    describe: 'Write a checkpoint again with weights of 8 or 4 bits',
    words: 'MODEL',
    options: PACK_OPTIONS,
    examples: PACK_EXAMPLES,
  },
  doctor: {
    describe: 'What this machine allows, what it lacks, and how to mend it',
    options: DOCTOR_OPTIONS,
    examples: DOCTOR_EXAMPLES,
  },
  cache: {
    describe: 'List downloads, copies of weights, packed and random weights, and remove them',
    words: 'WORDS',
    choices: CACHE_ACTIONS,
    options: CACHE_OPTIONS,
    examples: CACHE_EXAMPLES,
  },
  completion: {
    describe: 'Print what makes a shell complete this program’s commands, options and values',
    words: 'WORDS',
    choices: SHELLS,
    options: COMPLETION_OPTIONS,
    examples: COMPLETION_EXAMPLES,
  },
};

export function isCommand(word: string | undefined): word is CommandName {
  return word !== undefined && Object.hasOwn(COMMANDS, word);
}

/** Every option by its name. Whatever the command, a name is written in the same way. */
export const ALL_OPTIONS: ReadonlyMap<string, OptionSpec> = new Map(
  Object.values(COMMANDS).flatMap(({ options }) => Object.entries(options)),
);

/** Long names by the letter that stands for them. */
export const SHORT_NAMES: ReadonlyMap<string, string> = new Map(
  [...ALL_OPTIONS].flatMap(([name, { short }]) => (short === undefined ? [] : [[short, name] as const])),
);
