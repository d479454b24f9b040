// What a line that begins with a slash asks for.

import { suggest } from '../../text/suggest.js';

export const COMMANDS = {
  help: { takes: '', does: 'show this' },
  reset: { takes: '', does: 'begin anew, with the same system message (also /clear)' },
  system: {
    takes: '[TEXT]',
    does: 'set the system message ("" for none), which counts from the next answer on; or show it',
  },
  undo: { takes: '', does: 'take back the last message and its answer' },
  retry: { takes: '', does: 'take back the last answer, and make another' },
  save: {
    takes: 'FILE',
    does: 'write the conversation to a file, which generate --prompts_file takes as well',
  },
  load: { takes: 'FILE', does: 'go on with a conversation that was saved' },
  quit: { takes: '', does: 'leave (also /exit and Ctrl-D)' },
} as const;

export type SlashName = keyof typeof COMMANDS;

const OTHER_NAMES: Readonly<Record<string, SlashName>> = { clear: 'reset', exit: 'quit', bye: 'quit' };

export type Line =
  | { readonly kind: 'message'; readonly text: string }
  | { readonly kind: 'command'; readonly name: SlashName; readonly argument: string }
  /** Nothing was meant by it that there is; in a sentence. */
  | { readonly kind: 'mistake'; readonly problem: string };

/** `//` begins a message that begins with a slash. */
export function parseLine(line: string): Line {
  if (line.startsWith('//')) return { kind: 'message', text: line.slice(1) };
  const [, written, argument = ''] = /^\/(\S*)\s*([\s\S]*?)\s*$/.exec(line) ?? [];
  if (written === undefined) return { kind: 'message', text: line };
  const names = Object.keys(COMMANDS) as SlashName[];
  const name =
    names.find((one) => one === written) ??
    (Object.hasOwn(OTHER_NAMES, written) ? OTHER_NAMES[written] : undefined);
  if (name === undefined) {
    const meant = suggest(written, [...names, ...Object.keys(OTHER_NAMES)]);
    const hint = meant ? `did you mean /${meant}?` : '/help lists them';
    return {
      kind: 'mistake',
      problem: `there is no command /${written}: ${hint} (a message that begins with a slash is written with two)`,
    };
  }
  const { takes } = COMMANDS[name];
  if (takes === '' && argument !== '') return { kind: 'mistake', problem: `/${name} takes nothing after it` };
  if (takes === 'FILE' && argument === '')
    return { kind: 'mistake', problem: `/${name} needs the path of a file` };
  return { kind: 'command', name, argument };
}

/** @param isTerminal keys can be pressed */
export function helpText(isTerminal: boolean): string {
  const rows = Object.entries(COMMANDS).map(([name, { takes, does }]) => [`/${name} ${takes}`.trim(), does]);
  const keys = [
    ['\\ at the end', 'the message goes on in the next line'],
    ['"""', 'begins and ends a message of several lines'],
    ['Ctrl-C', 'stops an answer, of which what is there is kept; twice, it leaves'],
    ['Up, Down', 'lines that were entered before'],
  ];
  return [...rows, ...(isTerminal ? keys : keys.slice(0, 2))]
    .map(([what = '', does = '']) => `  ${what.padEnd(16)}${does}\n`)
    .join('');
}
