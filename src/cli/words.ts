// The words of a command line, taken apart: the command, its model, and every option as it is written. Both the first look
// and the parser read what this says, so that they cannot differ.

import {
  ALL_OPTIONS,
  COMMANDS,
  type CommandName,
  DEFAULT_COMMAND,
  isCommand,
  SHORT_NAMES,
} from './options/tables/commands.js';
import type { OptionSpec } from './options/tables/spec.js';

export type OptionValue = string | boolean | readonly string[];

export interface CommandWords {
  readonly command: CommandName;
  /** The command is one of the words. */
  readonly named: boolean;
  /** By long name: what is written of each option, several where it is written several times. */
  readonly values: Readonly<Record<string, OptionValue>>;
  /** Words that belong to no option, without the command and its model. */
  readonly rest: readonly string[];
  readonly asks: 'help' | 'version' | undefined;
  /** The first thing that is wrong with how options are written, in a sentence. */
  readonly problem: string | undefined;
  /** Options that no command has, as they are written. */
  readonly unknown: readonly string[];
}

/** @param words the command line without node and script */
export function readWords(words: readonly string[]): CommandWords {
  const { values, plain, ...others } = new Splitter(words).split();
  const [first] = plain;
  const named = isCommand(first);
  const command = named ? first : DEFAULT_COMMAND;
  const rest = named ? plain.slice(1) : plain;
  const [model] = rest;
  if (!named || model === undefined || COMMANDS[command].words !== 'MODEL') {
    return { command, named, values, rest, ...others };
  }
  const given = values.name;
  const differs = given !== undefined && given !== model;
  const problem = differs
    ? `the model is given as ${model} and as --name ${Array.isArray(given) ? given.join(' and ') : given}: give it once`
    : undefined;
  return {
    command,
    named,
    values: differs ? values : { ...values, name: model },
    rest: rest.slice(1),
    ...others,
    problem: others.problem ?? problem,
  };
}

/** A word that is an option wherever it stands; `-` is standard input, and `-4` a number. */
export function isOption(word: string): boolean {
  return /^-[^0-9]/.test(word);
}

/** `--batch-size` → `batch_size`. */
export function underscored(name: string): string {
  return name.replaceAll('-', '_');
}

class Splitter {
  readonly #words: readonly string[];
  #next = 0;
  readonly #values = new Map<string, OptionValue>();
  readonly #plain: string[] = [];
  readonly #unknown: string[] = [];
  #asks: CommandWords['asks'];
  #problem: string | undefined;

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  split() {
    for (let word = this.#take(); word !== undefined; word = this.#take()) {
      if (word === '--') {
        this.#plain.push(...this.#words.slice(this.#next));
        break;
      }
      if (word.startsWith('--')) this.#takeLong(word);
      else if (isOption(word)) this.#takeShort(word);
      else this.#plain.push(word);
    }
    return {
      values: Object.fromEntries(this.#values),
      plain: this.#plain,
      unknown: this.#unknown,
      asks: this.#asks,
      problem: this.#problem,
    };
  }

  #take(): string | undefined {
    return this.#words[this.#next++];
  }

  /** `--name VALUE` and `--name=VALUE`. */
  #takeLong(word: string): void {
    const [, written = '', value] = /^--([^=]*)(?:=(.*))?$/s.exec(word) ?? [];
    const name = underscored(written);
    if ((name === 'help' || name === 'version') && value === undefined) this.#asks ??= name;
    else this.#takeOption(name, `--${name}`, value);
  }

  /** `-n VALUE`, `-n=VALUE` and `-nVALUE`. */
  #takeShort(word: string): void {
    const letters = /^-([^=]*)/.exec(word)?.[1] ?? '';
    if (letters === 'h') this.#asks ??= 'help';
    else if (letters === 'V' || letters === 'v') this.#asks ??= 'version';
    else if (ALL_OPTIONS.has(underscored(letters))) {
      this.#problem ??= `-${letters} has one dash: write --${underscored(letters)}`;
    } else {
      const attached = word.slice(2);
      const value = attached === '' ? undefined : attached.replace(/^=/, '');
      const name = SHORT_NAMES.get(word.slice(1, 2));
      if (name === undefined) this.#unknown.push(word);
      else this.#takeOption(name, word.slice(0, 2), value);
    }
  }

  /** @param written how the option is written, for messages */
  #takeOption(name: string, written: string, value: string | undefined): void {
    const spec = ALL_OPTIONS.get(name);
    if (!spec) this.#unknown.push(written);
    else if (spec.kind === 'flag') this.#takeFlag(name, value ?? this.#nextSwitch());
    else this.#takeValue(name, spec, written, value ?? this.#nextValue());
  }

  /** A flag may be told in a word that it is set, or that it isn't. */
  #nextSwitch(): string | undefined {
    const word = this.#words[this.#next];
    return word === 'true' || word === 'false' ? this.#take() : undefined;
  }

  #takeFlag(name: string, value = 'true'): void {
    if (value === 'true' || value === 'false') this.#values.set(name, value === 'true');
    else this.#problem ??= `--${name} is '${value}': write it without a value`;
  }

  #nextValue(): string | undefined {
    const word = this.#words[this.#next];
    return word === undefined || isOption(word) ? undefined : this.#take();
  }

  #takeValue(name: string, { kind }: OptionSpec, written: string, value: string | undefined): void {
    if (value === undefined && kind !== 'optional') {
      this.#problem ??= `${written} needs a value; one that begins with a dash is written ${written}=VALUE`;
      return;
    }
    const before = this.#values.get(name);
    const all = [...(before === undefined ? [] : [before].flat()), value ?? ''].map(String);
    this.#values.set(name, kind === 'list' || all.length > 1 ? all : (all[0] ?? ''));
  }
}
