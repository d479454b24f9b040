// Python's values as templates see them: how they print, what counts as true, what equals what.

import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { pointsOf } from './text.js';

/** Whole numbers are bigints and others numbers, so that `1` and `1.0` print as they do in Python. */
export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | List
  | Tuple
  | Dict
  | Undefined
  | Lazy
  | View
  | Namespace
  | Callable
  | Members;

/** A name, attribute or item that is not there. It prints as nothing, and has no parts. */
export class Undefined {
  readonly what: string;

  constructor(what: string) {
    this.what = what;
  }

  get error(): TemplateRuntimeError {
    return new TemplateRuntimeError(`${this.what} is undefined`);
  }
}

export class List {
  readonly items: Value[];
  constructor(items: Value[]) {
    this.items = items;
  }
}

export class Tuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** In the order of insertion. Keys are texts, numbers, true, false or none. */
export class Dict {
  readonly #entries = new Map<string, [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value);
  }

  get size(): number {
    return this.#entries.size;
  }
  get(key: Value): Value | undefined {
    return this.#entries.get(keyOf(key))?.[1];
  }
  has(key: Value): boolean {
    return this.#entries.has(keyOf(key));
  }
  set(key: Value, value: Value): void {
    const known = this.#entries.get(keyOf(key));
    this.#entries.set(keyOf(key), [known ? known[0] : key, value]);
  }
  entries(): [Value, Value][] {
    return [...this.#entries.values()];
  }
  keys(): Value[] {
    return this.entries().map(([key]) => key);
  }
}

/** Equal keys are the same key, as 1, 1.0 and true are. */
function keyOf(key: Value): string {
  if (typeof key === 'string') return `s${key}`;
  if (typeof key === 'bigint' || typeof key === 'boolean') return `n${BigInt(key)}`;
  if (typeof key === 'number') return Number.isInteger(key) ? `n${BigInt(key)}` : `n${key}`;
  if (key === null) return 'none';
  if (key instanceof Tuple) return `t${key.items.map((item) => JSON.stringify(keyOf(item))).join()}`;
  if (key instanceof List || key instanceof Dict)
    throw new TemplateRuntimeError(`a ${typeName(key)} cannot be a key`);
  throw new UnsupportedError(`keys of type ${typeName(key)}`);
}

/** What filters such as `map` and `select` give: to be gone through once. */
export class Lazy {
  readonly #source: Iterator<Value>;
  constructor(items: Iterable<Value>) {
    this.#source = items[Symbol.iterator]();
  }
  *rest(): Iterable<Value> {
    for (let next = this.#source.next(); !next.done; next = this.#source.next()) yield next.value;
  }
}

/** What `dict.items()`, `dict.keys()`, `dict.values()` and `range` give. */
export class View {
  readonly items: readonly Value[];
  readonly type: string;
  constructor(items: readonly Value[], type: string) {
    this.items = items;
    this.type = type;
  }
}

/** Made by `namespace()`: the one thing of which templates set members. */
export class Namespace {
  readonly members = new Map<string, Value>();
}

export interface CallArguments {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

export class Callable {
  readonly name: string;
  readonly call: (args: CallArguments) => Value;
  constructor(name: string, call: (args: CallArguments) => Value) {
    this.name = name;
    this.call = call;
  }
}

/** Something with attributes, like `loop`; it may be called as well. */
export class Members {
  readonly name: string;
  readonly member: (name: string) => Value | undefined;
  readonly call: ((args: CallArguments) => Value) | undefined;
  constructor(
    name: string,
    member: (name: string) => Value | undefined,
    call?: (args: CallArguments) => Value,
  ) {
    this.name = name;
    this.member = member;
    this.call = call;
  }
}

export function typeName(value: Value): string {
  if (value === null) return 'NoneType';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'bigint') return 'int';
  if (typeof value === 'number') return 'float';
  if (typeof value === 'string') return 'str';
  if (value instanceof List) return 'list';
  if (value instanceof Tuple) return 'tuple';
  if (value instanceof Dict) return 'dict';
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Lazy) return 'generator';
  if (value instanceof View) return value.type;
  return value instanceof Callable || value instanceof Members ? value.name : 'Namespace';
}

export function isTrue(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === 'string') return value !== '';
  if (typeof value === 'bigint') return value !== 0n;
  if (typeof value === 'number') return value !== 0;
  if (typeof value === 'boolean') return value;
  if (value instanceof List || value instanceof Tuple || value instanceof View) return value.items.length > 0;
  return value instanceof Dict ? value.size > 0 : true;
}

/** What a `for` goes through. */
export function iterate(value: Value): Iterable<Value> {
  if (typeof value === 'string') return pointsOf(value);
  if (value instanceof List || value instanceof Tuple || value instanceof View) return value.items;
  if (value instanceof Dict) return value.keys();
  if (value instanceof Lazy) return value.rest();
  if (value instanceof Undefined) return [];
  throw new TemplateRuntimeError(`'${typeName(value)}' object is not iterable`);
}

/** `str(value)`, which is what output writes. */
export function toText(value: Value): string {
  if (typeof value === 'string') return value;
  return value instanceof Undefined ? '' : repr(value);
}

/** `repr(value)`: what lists and dicts show of their parts. */
export function repr(value: Value): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'number') return floatText(value);
  if (typeof value === 'string') return quoted(value);
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof List) return `[${value.items.map(repr).join(', ')}]`;
  if (value instanceof Tuple) {
    const [only] = value.items;
    return value.items.length === 1 && only !== undefined
      ? `(${repr(only)},)`
      : `(${value.items.map(repr).join(', ')})`;
  }
  if (value instanceof Dict) {
    return `{${value
      .entries()
      .map(([key, item]) => `${repr(key)}: ${repr(item)}`)
      .join(', ')}}`;
  }
  throw new UnsupportedError(`writing out a ${typeName(value)}`);
}

/** As few digits as tell it from other numbers, with an exponent below 1e-4 and from 1e16 on. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  const size = Math.abs(value);
  if (size >= 1e-4 && size < 1e16) {
    const text = String(value);
    return text.includes('.') ? text : `${text}.0`;
  }
  const [digits = '', exponent = '0'] = value.toExponential().split('e');
  const power = Math.abs(Number(exponent)).toString().padStart(2, '0');
  return `${digits}e${Number(exponent) < 0 ? '-' : '+'}${power}`;
}

const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}\p{Zs}]/u;

/** Single quotes, unless that takes escapes and double ones do not. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escapes: Readonly<Record<string, string>> = {
    '\n': '\\n',
    '\r': '\\r',
    '\t': '\\t',
    '\\': '\\\\',
    [quote]: `\\${quote}`,
  };
  const points = pointsOf(text).map((point) => {
    const known = escapes[point];
    if (known !== undefined) return known;
    if (point === ' ' || !UNPRINTABLE.test(point)) return point;
    const code = point.codePointAt(0) ?? 0;
    const digits = code.toString(16);
    if (code < 0x100) return `\\x${digits.padStart(2, '0')}`;
    return code < 0x10000 ? `\\u${digits.padStart(4, '0')}` : `\\U${digits.padStart(8, '0')}`;
  });
  return `${quote}${points.join('')}${quote}`;
}

export function isNumber(value: Value): value is boolean | bigint | number {
  return typeof value === 'boolean' || typeof value === 'bigint' || typeof value === 'number';
}

/** For comparisons of whole with other numbers, which JavaScript makes exactly. */
export function asNumber(value: boolean | bigint | number): bigint | number {
  return typeof value === 'boolean' ? BigInt(value) : value;
}

export function equal(a: Value, b: Value): boolean {
  if (isNumber(a) && isNumber(b)) return asNumber(a) <= asNumber(b) && asNumber(a) >= asNumber(b);
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof List && b instanceof List) return equalItems(a.items, b.items);
  if (a instanceof Tuple && b instanceof Tuple) return equalItems(a.items, b.items);
  if (a instanceof Dict && b instanceof Dict) {
    return (
      a.size === b.size &&
      a.entries().every(([key, value]) => {
        const other = b.get(key);
        return other !== undefined && equal(value, other);
      })
    );
  }
  if (a instanceof View && b instanceof View) {
    if (a.type !== 'range' || b.type !== 'range') throw new UnsupportedError(`comparing ${a.type}`);
    return equalItems(a.items, b.items);
  }
  return a === b;
}

function equalItems(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, index) => equal(item, b[index] ?? null));
}

/** Less than 0 where a comes before b. */
export function order(a: Value, b: Value): number {
  if (isNumber(a) && isNumber(b)) {
    const [left, right] = [asNumber(a), asNumber(b)];
    return left < right ? -1 : left > right ? 1 : 0;
  }
  if (typeof a === 'string' && typeof b === 'string') return orderTexts(a, b);
  if ((a instanceof List && b instanceof List) || (a instanceof Tuple && b instanceof Tuple)) {
    for (const [index, item] of a.items.entries()) {
      const other = b.items[index];
      if (other === undefined) return 1;
      if (!equal(item, other)) return order(item, other);
    }
    return a.items.length - b.items.length;
  }
  if (a instanceof Undefined) throw a.error;
  if (b instanceof Undefined) throw b.error;
  throw new TemplateRuntimeError(`'${typeName(a)}' and '${typeName(b)}' have no order`);
}

/** By code points; JavaScript orders by halves of surrogate pairs. */
function orderTexts(a: string, b: string): number {
  if (a === b) return 0;
  const [left, right] = [pointsOf(a), pointsOf(b)];
  for (let at = 0; at < left.length && at < right.length; at++) {
    const difference = (left[at]?.codePointAt(0) ?? 0) - (right[at]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

export function contains(container: Value, item: Value): boolean {
  if (typeof container === 'string') {
    if (typeof item !== 'string') {
      if (item instanceof Undefined) throw item.error;
      throw new TemplateRuntimeError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    }
    return container.includes(item);
  }
  if (container instanceof Dict) return container.has(item);
  for (const each of iterate(container)) if (equal(each, item)) return true;
  return false;
}

/** JSON as Python reads it. Numbers without a fraction are whole. */
export function fromJson(value: unknown): Value {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return new List(value.map(fromJson));
  if (typeof value === 'object') {
    return new Dict(Object.entries(value).map(([key, item]) => [key, fromJson(item)] as const));
  }
  throw new UnsupportedError(`a value of type ${typeof value}`);
}
