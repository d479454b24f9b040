// The command line as yargs reads it: commands, help and version. What is wrong with it becomes a BAD_OPTION.

import { readFileSync } from 'node:fs';
import yargs, { type Options } from 'yargs';
import { underscored } from './glance.js';
import { DOCTOR_EXAMPLES, DOCTOR_OPTIONS } from './options/doctor-options.js';
import { GENERATE_EXAMPLES, GENERATE_OPTIONS } from './options/generate-options.js';
import { badOption, OptionReader, type OptionSpec, type OptionTable } from './options/option-reader.js';
import { PLAN_EXAMPLES, PLAN_OPTIONS } from './options/plan-options.js';
import { SCORE_EXAMPLES, SCORE_OPTIONS } from './options/score-options.js';
import { suggest } from './suggest.js';

export type CommandName = 'generate' | 'score' | 'plan' | 'doctor';

interface Command {
  readonly describe: string;
  readonly options: OptionTable;
  /** What to type, and what it does. */
  readonly examples: readonly (readonly [string, string])[];
}

const COMMANDS: Readonly<Record<CommandName, Command>> = {
  generate: {
    describe: 'Continue prompts (the default command)',
    options: GENERATE_OPTIONS,
    examples: GENERATE_EXAMPLES,
  },
  score: {
    describe: 'Mean negative log-likelihood and perplexity of a text',
    options: SCORE_OPTIONS,
    examples: SCORE_EXAMPLES,
  },
  plan: {
    describe: 'Where everything would rest and how long a step would take, before anything is loaded',
    options: PLAN_OPTIONS,
    examples: PLAN_EXAMPLES,
  },
  doctor: {
    describe: 'What this machine allows, what it lacks, and how to mend it',
    options: DOCTOR_OPTIONS,
    examples: DOCTOR_EXAMPLES,
  },
};

export type ParsedCommandLine =
  | { readonly kind: 'run'; readonly command: CommandName; readonly options: OptionReader }
  /** Help or version, ready to be printed. */
  | { readonly kind: 'print'; readonly text: string };

/** @param words without node and script. Throws BAD_OPTION. */
export function parseCommandLine(words: readonly string[], width: number): ParsedCommandLine {
  let chosen: { command: CommandName; values: Record<string, unknown> } | undefined;
  let failure: string | undefined;
  let printed = '';
  const parser = yargs()
    .scriptName('zero-inference')
    .usage('$0 [command] --name FOLDER [options]')
    // Names are taken as they are written; dashes become underscores before yargs sees them.
    .parserConfiguration({
      'camel-case-expansion': false,
      'boolean-negation': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'greedy-arrays': false,
      'short-option-groups': false,
    })
    .exitProcess(false)
    .detectLocale(false)
    .wrap(Math.min(110, width))
    .help('help', 'Show this help')
    .alias('help', 'h')
    .version('version', 'Show the version', packageVersion())
    .fail((message, error) => {
      failure = message ?? error.message;
    });
  for (const name of Object.keys(COMMANDS) as CommandName[]) {
    const { describe, options, examples } = COMMANDS[name];
    parser.command(
      name === 'generate' ? [name, '$0'] : name,
      describe,
      (builder) => builder.options(toYargs(options)).epilogue(epilogue(examples)),
      (values) => {
        chosen = { command: name, values };
      },
    );
  }
  parser.parse(words.map(underscored), {}, (_error, _values, output) => {
    printed = output;
  });
  if (failure !== undefined) throw badOption(explain(failure));
  if (printed !== '' || !chosen) return { kind: 'print', text: `${printed}\n` };
  const { command, values } = chosen;
  checkKnown(command, values);
  return { kind: 'run', command, options: new OptionReader(values) };
}

/** Values without a type: the parser is told to leave words alone, and the help then says only what is useful. */
const YARGS_KINDS: Readonly<Record<OptionSpec['kind'], Options>> = {
  value: { requiresArg: true },
  list: { requiresArg: true, array: true, string: true },
  flag: { boolean: true },
  optional: { string: true },
};

function epilogue(examples: Command['examples']): string {
  const lines = examples.map(([line, what]) => `  ${what}:\n    ${line}`);
  return [
    'Examples:',
    ...lines,
    '',
    'Dashes may stand for underscores. Errors carry a code; README.md lists them with their exit status.',
  ].join('\n');
}

function toYargs(table: OptionTable): Record<string, Options> {
  return Object.fromEntries(
    Object.entries(table).map(([name, { kind, describe, group, default: shown }]): [string, Options] => [
      name,
      {
        describe,
        group: `${group}:`,
        ...(shown === undefined ? {} : { defaultDescription: shown }),
        ...YARGS_KINDS[kind],
      },
    ]),
  );
}

/** yargs' own words for the only mistake it is left to find. */
function explain(failure: string): string {
  const option = /^Not enough arguments following: (.*)$/.exec(failure)?.[1];
  return option === undefined
    ? failure.replaceAll('\n', ' ')
    : `--${option} needs a value; one that begins with a dash is written --${option}=VALUE`;
}

function checkKnown(command: CommandName, values: Readonly<Record<string, unknown>>): void {
  const known = Object.keys(COMMANDS[command].options);
  for (const name of Object.keys(values)) {
    if (known.includes(name) || ['_', '$0', 'help', 'h', 'version'].includes(name)) continue;
    const meant = suggest(name, known);
    const other = Object.keys(COMMANDS).find((one) => name in COMMANDS[one as CommandName].options);
    const hint = meant ? `did you mean --${meant}?` : other ? `it belongs to ${other}` : 'see --help';
    throw badOption(`there is no option --${name} of ${command}: ${hint}`);
  }
  const words = (values._ as unknown[]).map(String);
  const extra = words[0] === command ? words[1] : words[0];
  if (extra === undefined) return;
  const meant = suggest(extra, Object.keys(COMMANDS));
  throw badOption(
    meant && words[0] === extra
      ? `there is no command '${extra}': did you mean ${meant}?`
      : `'${extra}' belongs to no option: put a value with spaces into quotes`,
  );
}

function packageVersion(): string {
  // The sources and dist/ lie at different depths.
  for (const up of ['../../', '../../../']) {
    try {
      const text = readFileSync(new URL(`${up}package.json`, import.meta.url), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch {
      // Try the next one.
    }
  }
  return 'unknown';
}
