// What may stand where the cursor is: commands, options, their values, or names of files, which the shell knows better.

import { ALL_OPTIONS, COMMANDS, type CommandName, SHORT_NAMES } from '../options/tables/commands.js';
import type { OptionSpec } from '../options/tables/spec.js';
import { isOption, readWords, underscored } from '../words.js';

export interface Candidate {
  readonly word: string;
  readonly describe?: string;
}

export interface Completion {
  readonly candidates: readonly Candidate[];
  /** Names of the file system may stand there as well. */
  readonly names?: 'file' | 'folder' | undefined;
  /** Models of the hub that are in its cache may, whose names begin so. */
  readonly modelsFrom?: string;
}

const NOTHING: Completion = { candidates: [] };

/**
 * @param words after the program's name, up to the cursor; the last one is under way, and may be empty
 */
export function complete(words: readonly string[]): Completion {
  const joined = joinAssignments(words);
  const before = joined.slice(0, -1);
  const current = joined.at(-1) ?? '';
  const assigned = /^(--?[^=]+)=(.*)$/s.exec(current);
  const plainOnly = before.includes('--');
  if (assigned && !plainOnly) return completeValue(specOf(assigned[1] ?? ''), assigned[2] ?? '');
  const waiting = plainOnly ? undefined : waitingOption(before);
  if (waiting && !(waiting.kind === 'optional' && isOption(current))) return completeValue(waiting, current);
  const { command, named, rest, values } = readWords(before);
  if (current.startsWith('-') && !plainOnly) return completeOption(command, values, current);
  if (!named) return startingWith(commandCandidates(), current);
  return completeWord(command, values, rest, current);
}

/** Shells that part words at `=` give `--device`, `=` and `cpu` one by one. */
function joinAssignments(words: readonly string[]): string[] {
  const joined: string[] = [];
  for (const [index, word] of words.entries()) {
    const last = joined.at(-1) ?? '';
    const follows = word === '=' && /^--?[a-z_-]+$/.test(last);
    const continues = index > 1 && words[index - 1] === '=' && last.endsWith('=');
    if (follows || continues) joined[joined.length - 1] = last + word;
    else joined.push(word);
  }
  return joined;
}

/** The option that the words before the cursor end with, if its value is to come. */
function waitingOption(before: readonly string[]): OptionSpec | undefined {
  const last = before.at(-1) ?? '';
  if (!isOption(last) || last.includes('=')) return undefined;
  const isShort = !last.startsWith('--');
  if (isShort && last.length > 2) return undefined;
  const spec = specOf(last);
  return spec?.kind === 'flag' ? undefined : spec;
}

function specOf(written: string): OptionSpec | undefined {
  const name = written.startsWith('--') ? underscored(written.slice(2)) : SHORT_NAMES.get(written.slice(1));
  return ALL_OPTIONS.get(name ?? '');
}

function completeValue(spec: OptionSpec | undefined, current: string): Completion {
  if (!spec) return NOTHING;
  const words = spec.kind === 'flag' ? ['true', 'false'] : (spec.choices ?? []);
  const { candidates } = startingWith(
    words.map((word) => ({ word })),
    current,
  );
  if (spec.names === 'model') return { candidates, names: 'folder', modelsFrom: current };
  return { candidates, names: spec.names };
}

/** Options that are not there yet, with the dashes that the user writes. */
function completeOption(
  command: CommandName,
  given: Readonly<Record<string, unknown>>,
  current: string,
): Completion {
  const dashed = /^--.*[a-z]-/.test(current);
  const options = Object.entries(COMMANDS[command].options)
    .filter(([name, { kind }]) => kind === 'list' || !(name in given))
    .map(([name, { describe }]) => ({ word: `--${dashed ? name.replaceAll('_', '-') : name}`, describe }));
  return startingWith([...options, { word: '--help', describe: 'show the help' }], current);
}

function commandCandidates(): Candidate[] {
  return Object.entries(COMMANDS).map(([word, { describe }]) => ({ word, describe }));
}

function completeWord(
  command: CommandName,
  values: Readonly<Record<string, unknown>>,
  rest: readonly string[],
  current: string,
): Completion {
  const { words, choices = [] } = COMMANDS[command];
  if (words === 'MODEL') return 'name' in values ? NOTHING : completeValue(ALL_OPTIONS.get('name'), current);
  if (command === 'merge' && rest.length === 0) return { candidates: [], names: 'folder' };
  if (command === 'cache' && rest[0] === 'remove') {
    return { candidates: [], names: 'folder', modelsFrom: current };
  }
  if (words === undefined || rest.length > 0) return NOTHING;
  return startingWith(
    choices.map((word) => ({ word })),
    current,
  );
}

function startingWith(candidates: readonly Candidate[], current: string): Completion {
  return { candidates: candidates.filter(({ word }) => word.startsWith(current)) };
}

/** A line per candidate, its description behind a tab, and a line for names of the file system. */
export async function completionLines(words: readonly string[]): Promise<string> {
  const { candidates, names, modelsFrom } = complete(words);
  const lines = candidates.map(({ word, describe }) =>
    describe === undefined ? word : `${word}\t${describe}`,
  );
  if (modelsFrom !== undefined) {
    // Loaded here because other completions should not wait for it.
    const { cachedModels } = await import('./cached-models.js');
    lines.push(...(await cachedModels()).filter((name) => name.startsWith(modelsFrom)));
  }
  if (names !== undefined) lines.push(`:${names}`);
  return lines.map((line) => `${line}\n`).join('');
}
