// The command line: which command, and its options; or a sentence for what is wrong with it, as a BAD_OPTION.

import { suggest } from '../text/suggest.js';
import { badOption, OptionReader } from './options/option-reader.js';
import { COMMANDS, type CommandName } from './options/tables/commands.js';
import { type CommandWords, readWords } from './words.js';

export type ParsedCommandLine =
  | {
      readonly kind: 'run';
      readonly command: CommandName;
      readonly options: OptionReader;
      /** What else the command is told, such as what to remove. */
      readonly words: readonly string[];
    }
  /** The help of a command, where one is named, or of the program. */
  | { readonly kind: 'help'; readonly command: CommandName | undefined }
  | { readonly kind: 'version' };

/** @param words without node and script. Throws BAD_OPTION. */
export function parseCommandLine(words: readonly string[]): ParsedCommandLine {
  const line = readWords(words);
  const { asks, command, named, values, rest, problem } = line;
  if (asks === 'help') return { kind: 'help', command: named ? command : undefined };
  if (asks === 'version') return { kind: 'version' };
  if (problem !== undefined) throw badOption(problem);
  checkKnown(line);
  if (COMMANDS[command].words !== 'WORDS') checkRest(line);
  return { kind: 'run', command, options: new OptionReader(values), words: rest };
}

function checkKnown({ command, values, unknown }: CommandWords): void {
  const known = Object.keys(COMMANDS[command].options);
  for (const written of unknown)
    throw noOption(written, command, suggest(written.replace(/^--?/, ''), known));
  for (const name of Object.keys(values)) {
    if (!known.includes(name)) throw noOption(`--${name}`, command, suggest(name, known), ownerOf(name));
  }
}

function noOption(written: string, command: CommandName, meant: string | undefined, owner?: string) {
  const hint = meant ? `did you mean --${meant}?` : owner ? `it belongs to ${owner}` : 'see --help';
  return badOption(`there is no option ${written} of ${command}: ${hint}`);
}

function ownerOf(name: string): string | undefined {
  return Object.keys(COMMANDS).find((one) => name in COMMANDS[one as CommandName].options);
}

/** Words that nothing was to be done with. */
function checkRest({ named, rest }: CommandWords): void {
  const [extra] = rest;
  if (extra === undefined) return;
  const meant = named ? undefined : suggest(extra, Object.keys(COMMANDS));
  if (meant) throw badOption(`there is no command '${extra}': did you mean ${meant}?`);
  const model = named ? '' : `, and the model after a command, as in generate ${extra}`;
  throw badOption(`'${extra}' belongs to no option: put a value with spaces into quotes${model}`);
}
