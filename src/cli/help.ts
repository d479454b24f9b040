// The help, which yargs lays out: commands, their options by group, and examples.

import yargs, { type Argv, type Options } from 'yargs';
import { COMMANDS, type Command, type CommandName, DEFAULT_COMMAND } from './options/tables/commands.js';
import type { OptionSpec, OptionTable } from './options/tables/spec.js';
import { packageVersion } from './version.js';

/** @param command undefined where none is named: of the default command, with a list of all */
export async function helpText(command: CommandName | undefined, width: number): Promise<string> {
  const parser = yargs()
    .scriptName('zero-inference')
    .usage('$0 [command] [options]')
    .exitProcess(false)
    .detectLocale(false)
    .wrap(Math.min(110, width))
    .help('help', 'Show this help')
    .alias('help', 'h')
    .version('version', 'Show the version', packageVersion())
    .alias('version', 'V');
  for (const [name, { describe, words, options, examples }] of Object.entries(COMMANDS)) {
    const usage = words === undefined ? name : `${name} ${WORDS[words]}`;
    parser.command(name === DEFAULT_COMMAND ? [usage, '$0'] : usage, describe, (builder) =>
      modelOf(builder, words).options(toYargs(options)).epilogue(epilogue(examples)),
    );
  }
  let text = '';
  await parser.parse(
    [...(command === undefined ? [] : [command]), '--help'],
    {},
    (_error, _values, output) => {
      text = output;
    },
  );
  return `${text}\n`;
}

function modelOf(builder: Argv, words: Command['words']): Argv {
  return words === 'MODEL' ? builder.positional('model', { describe: 'as --name', type: 'string' }) : builder;
}

const WORDS: Readonly<Record<NonNullable<Command['words']>, string>> = {
  MODEL: '[model]',
  WORDS: '[words..]',
};

/** Without a type the help says only what is useful. */
const YARGS_KINDS: Readonly<Record<OptionSpec['kind'], Options>> = {
  value: { requiresArg: true },
  list: { requiresArg: true, array: true, string: true },
  flag: { boolean: true },
  optional: { string: true },
};

function toYargs(table: OptionTable): Record<string, Options> {
  return Object.fromEntries(
    Object.entries(table).map(([name, spec]): [string, Options] => [
      name,
      {
        describe: spec.describe,
        group: `${spec.group}:`,
        ...(spec.short === undefined ? {} : { alias: spec.short }),
        ...(spec.default === undefined ? {} : { defaultDescription: spec.default }),
        ...YARGS_KINDS[spec.kind],
      },
    ]),
  );
}

function epilogue(examples: Command['examples']): string {
  const lines = examples.map(([line, what]) => `  ${what}:\n    ${line}`);
  return [
    'Examples:',
    ...lines,
    '',
    'Dashes may stand for underscores. Errors carry a code; README.md lists them with their exit status.',
  ].join('\n');
}
