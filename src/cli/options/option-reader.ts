// From the words of a command line to typed values, with one sentence for whatever is wrong with them.

import { OperatingError, parseBytes } from '../../../offload/index.js';

const MOST = 2 ** 31 - 1;

export class OptionReader {
  readonly #values: Readonly<Record<string, unknown>>;

  /** @param values strings, lists of strings or booleans, by option name */
  constructor(values: Readonly<Record<string, unknown>>) {
    this.#values = values;
  }

  /** Given, and not as a flag that is not to be set. */
  has(name: string): boolean {
    return this.#values[name] !== undefined && this.#values[name] !== false;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  /** A flag that is set unless it is denied, or whose default depends on others. */
  switch(name: string): boolean | undefined {
    const value = this.#values[name];
    return typeof value === 'boolean' ? value : undefined;
  }

  /** Undefined when the option is absent; '' for an `optional` one without a value. */
  text(name: string): string | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    if (Array.isArray(value)) throw badOption(`--${name} is given ${value.length} times: give it once`);
    return String(value);
  }

  /** A text that is not empty. */
  path(name: string): string | undefined {
    const text = this.text(name);
    if (text === '') throw badOption(`--${name} is empty: give a path`);
    return text;
  }

  list(name: string): string[] {
    const value = this.#values[name];
    if (value === undefined) return [];
    return Array.isArray(value) ? value.map(String) : [String(value)];
  }

  /** A whole number from `least` to `most`. */
  count(name: string, least = 1, most = MOST): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= least && value <= most) return value;
    throw badOption(`--${name} is '${text}': give a whole number from ${least} to ${most}`);
  }

  /** A finite number; which of them make sense is the caller's business. */
  number(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (Number.isFinite(value)) return value;
    throw badOption(`--${name} is '${text}': give a number`);
  }

  bytes(name: string): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : parseBytes(text, `--${name}`);
  }

  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const found = choices.find((choice) => choice === text);
    if (found) return found;
    throw badOption(`--${name} is '${text}': give one of ${choices.join(', ')}`);
  }

  /** Throws when both options are given. */
  exclude(one: string, other: string, why: string): void {
    if (this.has(one) && this.has(other)) {
      throw badOption(`--${one} and --${other} are both given: ${why}`);
    }
  }
}

export function badOption(message: string): OperatingError {
  return new OperatingError('BAD_OPTION', message);
}
