// Options as programs give them, which may be of any type whatever the declarations say: typed values, or one sentence.

import { OperatingError, parseBytes } from '../../offload/index.js';
import { suggest } from '../text/suggest.js';
import type { Signal } from './types.js';

/** The sentence's subject where an object is none of ours: `options`, `the prompt`. */
export type Subject = string;

export function badOption(sentence: string): OperatingError {
  return new OperatingError('BAD_OPTION', sentence);
}

const MOST_SHOWN = 60;

/** A value as a sentence can hold it. */
export function shown(value: unknown): string {
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'symbol') return String(value);
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : kindOf(value);
  const text = typeof value === 'string' ? `'${value}'` : String(value);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}

function kindOf(value: object): string {
  const kind = Object.prototype.toString.call(value).slice('[object '.length, -1);
  return kind === 'Object' ? 'an object' : `a value of type ${kind}`;
}

/** With those that an object inherits, since options may be made of others. */
function allProperties(given: object): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const name in given) values[name] = (given as Record<string, unknown>)[name];
  return values;
}

/** An object's properties by name; throws for one that is not in `names`. */
export class Options {
  readonly #values: Readonly<Record<string, unknown>>;

  /**
   * @param names every property that may be given
   * @param error by default, BAD_OPTION
   */
  constructor(given: unknown, names: readonly string[], subject: Subject, error = badOption) {
    // In a Map or a list no option would be found, and nobody would be told.
    if (given !== undefined && Object.prototype.toString.call(given) !== '[object Object]') {
      throw error(`${subject} are ${shown(given)}: give an object`);
    }
    this.#values = allProperties(given ?? {});
    for (const name of Object.keys(this.#values)) {
      if (names.includes(name)) continue;
      const meant = suggest(name, names);
      throw error(
        meant
          ? `there is no option ${shown(name)}: did you mean '${meant}'?`
          : `there is no option ${shown(name)}: there are ${names.join(', ')}`,
      );
    }
  }

  has(name: string): boolean {
    return this.#values[name] !== undefined;
  }

  /** A whole number from `least` to `most`. */
  count(name: string, least = 1, most = 2 ** 31 - 1): number | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most) {
      return value as number;
    }
    throw this.#wrong(name, `a whole number from ${least} to ${most}`);
  }

  /** Any number; whether it makes sense is for others to say. */
  number(name: string): number | undefined {
    const value = this.#values[name];
    if (value === undefined || typeof value === 'number') return value;
    throw this.#wrong(name, 'a number');
  }

  flag(name: string): boolean | undefined {
    const value = this.#values[name];
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.#wrong(name, 'true or false');
  }

  /** A text that is not empty. */
  text(name: string): string | undefined {
    const value = this.#values[name];
    if (value === undefined || (typeof value === 'string' && value !== '')) return value;
    throw this.#wrong(name, 'a text that is not empty');
  }

  /** One text, or a list of some. */
  texts(name: string): readonly string[] {
    const value = this.#values[name];
    if (!Array.isArray(value)) return [this.text(name) ?? []].flat();
    if (value.length > 0 && value.every((one): one is string => typeof one === 'string' && one !== ''))
      return value;
    throw this.#wrong(name, 'a text that is not empty, or a list of such texts');
  }

  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    throw this.#wrong(name, `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`);
  }

  /** In bytes, of a number or of a text with a unit. */
  size(name: string): number | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    if (typeof value === 'string') return parseBytes(value, name);
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.#wrong(name, "bytes as a whole number, or a size such as '2GiB'");
  }

  /** Called with whatever the declarations say. */
  callback<F>(name: string): F | undefined {
    const value = this.#values[name];
    if (value === undefined || typeof value === 'function') return value as F | undefined;
    throw this.#wrong(name, 'a function');
  }

  /** An object with these methods. */
  methods<T>(name: string, methods: readonly (keyof T & string)[]): T | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function';
    const lacks = methods.find((method) => !isObject || typeof (value as T)[method] !== 'function');
    if (lacks === undefined) return value as T;
    throw this.#wrong(name, `an object with the methods ${methods.join(', ')}`);
  }

  signal(name: string): Signal | undefined {
    const value = this.#values[name];
    if (value === undefined) return undefined;
    if (typeof value === 'object' && value !== null && typeof (value as Signal).aborted === 'boolean') {
      return this.methods<Signal>(name, ['addEventListener', 'removeEventListener']);
    }
    throw this.#wrong(name, 'an AbortSignal');
  }

  /** As it is; undefined where absent. */
  value(name: string): unknown {
    return this.#values[name];
  }

  #wrong(name: string, wanted: string): OperatingError {
    return badOption(`${name} is ${shown(this.#values[name])}: give ${wanted}`);
  }
}
