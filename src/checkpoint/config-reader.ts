// Typed access to config.json: the first of several names that is present, with a clear error for anything else.

import { OperatingError } from '../../offload/index.js';
import { show } from '../files/json-file.js';

/**
 * Far above every published model. Tables are made from these numbers before any weight is looked at, and a damaged
 * file must not make them endless.
 */
const MOST: readonly (readonly [RegExp, number])[] = [
  [/layers?$|experts$|heads?$|groups$/, 10_000],
  [/position|window|context/, 2 ** 40],
];
const MOST_OTHERS = 2 ** 24;

/** The table's own entry; `constructor` and its like, which every object has, are none. */
export function named<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

/** Which of how many devices that compute a model together. */
export interface DeviceShare {
  readonly device: number;
  readonly devices: number;
}

/** Reads values by any of their names, since config keys changed between generations of checkpoints. */
export class ConfigReader {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #path: string;
  /** Whose heads and inner sizes are read; one device has all. */
  readonly share: DeviceShare;

  /** @param path where the values came from, for messages */
  constructor(
    values: Readonly<Record<string, unknown>>,
    path: string,
    share: DeviceShare = { device: 0, devices: 1 },
  ) {
    this.#values = values;
    this.#path = path;
    this.share = share;
  }

  get path(): string {
    return this.#path;
  }

  /** The first name that is present and not null. */
  raw(...names: readonly string[]): unknown {
    for (const name of names) {
      const value = this.#values[name];
      if (value !== undefined && value !== null) return value;
    }
    return undefined;
  }

  /** A whole number from 1 to what any model could have; without a fallback it must be there. */
  count(names: readonly string[], fallback?: number): number {
    const value = this.raw(...names) ?? fallback;
    const most = MOST.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1] ?? MOST_OTHERS;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value <= most) return value;
    throw this.#bad(names, `a whole number from 1 to ${most}`, value);
  }

  optionalCount(names: readonly string[]): number | undefined {
    return this.raw(...names) === undefined ? undefined : this.count(names);
  }

  /** Whether the name is there at all, be it null: families give null and absence different meanings. */
  has(name: string): boolean {
    return Object.hasOwn(this.#values, name);
  }

  /** A finite number. */
  number(names: readonly string[], fallback?: number): number {
    const value = this.raw(...names) ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw this.#bad(names, 'a number', value);
  }

  optionalNumber(names: readonly string[]): number | undefined {
    return this.raw(...names) === undefined ? undefined : this.number(names);
  }

  /** Exactly `length` finite numbers. */
  numbers(names: readonly string[], length: number): number[] {
    const value = this.raw(...names);
    if (Array.isArray(value) && value.length === length && value.every(Number.isFinite)) return value;
    throw this.#bad(names, `a list of ${length} numbers`, value);
  }

  /** Exactly `length` texts; undefined when absent. */
  optionalTexts(names: readonly string[], length: number): string[] | undefined {
    const value = this.raw(...names);
    if (value === undefined) return undefined;
    const isText = (item: unknown) => typeof item === 'string';
    if (Array.isArray(value) && value.length === length && value.every(isText)) return value;
    throw this.#bad(names, `a list of ${length} texts`, value);
  }

  /** Absence means the fallback; null does not hold, as in the reference, whatever the fallback is. */
  flag(names: readonly string[], fallback: boolean): boolean {
    const isNull = names.some((name) => this.#values[name] === null);
    const value = this.raw(...names) ?? (fallback && !isNull);
    if (typeof value === 'boolean') return value;
    throw this.#bad(names, 'true or false', value);
  }

  text(names: readonly string[], fallback?: string): string {
    const value = this.raw(...names) ?? fallback;
    if (typeof value === 'string') return value;
    throw this.#bad(names, 'a text', value);
  }

  /** A nested object as a reader of its own; undefined when absent. */
  object(...names: readonly string[]): ConfigReader | undefined {
    const value = this.raw(...names);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.#bad(names, 'an object', value);
    return new ConfigReader(value as Record<string, unknown>, `${this.#path}: ${names[0]}`, this.share);
  }

  /** Refuses a value by name; for fields that change the arithmetic in a way that is not implemented. */
  unsupported(name: string, value: unknown, supported: string): OperatingError {
    return new OperatingError(
      'UNSUPPORTED',
      `${this.#path}: ${name} ${show(value)} is not supported; supported: ${supported}`,
    );
  }

  /** Refuses fields that change the arithmetic in a way that is not implemented, unless absent, null or `neutral`. */
  refuseUnless(neutral: unknown, ...names: readonly string[]): void {
    for (const name of names) {
      const value = this.raw(name);
      if (value !== undefined && value !== neutral)
        throw this.unsupported(name, value, JSON.stringify(neutral));
    }
  }

  /** Refuses when the whole does not divide into that many parts. */
  divided(whole: number, parts: number, what: string): number {
    if (whole % parts === 0) return whole / parts;
    throw new OperatingError('BAD_CONFIG', `${this.#path}: ${what}: ${whole} is not a multiple of ${parts}`);
  }

  /** What each device has of heads or of an inner size. @param name of that size, for messages */
  shared(size: number, name: string): number {
    const { devices } = this.share;
    if (size % devices === 0) return size / devices;
    throw new OperatingError(
      'UNSUPPORTED',
      `${this.#path}: ${name} ${size} cannot be shared by ${devices} devices, since it is no multiple of ${devices}: ` +
        'give another --num_gpus, or --parallel streams',
    );
  }

  /** The same of heads of keys, of which devices may have the same ones where there are fewer. */
  sharedKeyHeads(heads: number, name: string): number {
    return this.share.devices % heads === 0 ? 1 : this.shared(heads, name);
  }

  #bad(names: readonly string[], wanted: string, value: unknown): OperatingError {
    const found = value === undefined ? 'it is absent' : `it is ${show(value)}`;
    return new OperatingError(
      'BAD_CONFIG',
      `${this.#path}: ${names.join(' or ')} must be ${wanted}; ${found}`,
    );
  }
}
