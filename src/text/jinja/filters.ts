// Jinja's filters: `value|name`. Those on lists are in sequence-filters.ts.

import { bind, numberOf, optionalWhole, soft, textOf, wholeOf } from './arguments.js';
import { attributeOf } from './attributes.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { toJson } from './json.js';
import { KNOWN_FILTERS } from './known-names.js';
import { formatText } from './operators.js';
import { attributeGetter, type Filter, SEQUENCE_FILTERS } from './sequence-filters.js';
import { replaceAny, STRING_METHODS } from './string-methods.js';
import { capitalize, splitLines, strip } from './text.js';
import {
  asNumber,
  type CallArguments,
  Dict,
  isNumber,
  isTrue,
  iterate,
  Lazy,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** A filter on texts that takes nothing; what is no text is written out first. */
function onText(name: string, change: (text: string) => Value): Filter {
  return (value, args) => {
    bind(name, args, []);
    return change(soft(value));
  };
}

const WORD_BEGINNING = /([-\s({[<]+)/;

const FILTERS: Readonly<Record<string, Filter>> = {
  ...SEQUENCE_FILTERS,
  map: (value, { positional, named }) => {
    if (!isTrue(value)) return new Lazy([]);
    const [name, ...rest] = positional;
    let apply: (item: Value) => Value;
    if (name === undefined) {
      const { attribute, default: otherwise } = bind('map', { positional, named }, ['attribute', 'default']);
      if (attribute === undefined) throw new TemplateRuntimeError('map requires a filter argument');
      apply = attributeGetter(attribute, otherwise);
    } else apply = (item) => applyFilter(soft(name), item, { positional: rest, named });
    const mapped = function* (): Iterable<Value> {
      for (const item of iterate(value)) yield apply(item);
    };
    return new Lazy(mapped());
  },
  lower: onText('lower', (text) => text.toLowerCase()),
  upper: onText('upper', (text) => text.toUpperCase()),
  capitalize: onText('capitalize', capitalize),
  string: onText('string', (text) => text),
  title: onText('title', (text) =>
    text
      .split(WORD_BEGINNING)
      .map((word) => capitalize(word))
      .join(''),
  ),
  trim: (value, args) => {
    const { chars = null } = bind('trim', args, ['chars']);
    return chars === null ? strip(soft(value)) : strip(soft(value), soft(chars));
  },
  replace: (value, args) => {
    const { old = '', new: by = '', count = null } = bind('replace', args, ['old', 'new', 'count']);
    return replaceAny(soft(value), soft(old), soft(by), optionalWhole(count, 'replace') ?? -1);
  },
  indent: (value, args) => {
    const { width = 4n, first = false, blank = false } = bind('indent', args, ['width', 'first', 'blank']);
    const step = typeof width === 'string' ? width : ' '.repeat(Math.max(0, wholeOf(width, 'indent')));
    const lines = splitLines(`${textOf(value, 'indent')}\n`);
    const [head = '', ...rest] = lines;
    const keepsBlank = isTrue(blank);
    const text = [head, ...rest.map((line) => (keepsBlank || line !== '' ? step + line : line))].join('\n');
    return isTrue(first) ? step + text : text;
  },
  center: (value, args) => {
    const { width = 80n } = bind('center', args, ['width']);
    return STRING_METHODS.center?.(soft(value), { positional: [width], named: new Map() }) ?? '';
  },
  wordcount: onText('wordcount', (text) => BigInt(text.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)),
  format: (value, { positional, named }) => {
    if (named.size > 0) throw new UnsupportedError('format with named values');
    return formatText(soft(value), new Tuple(positional));
  },
  default: defaultOf,
  d: defaultOf,
  attr: (value, args) => {
    const { name = '' } = bind('attr', args, ['name']);
    // Unlike a dot, it never finds a key.
    if (value instanceof Undefined) throw value.error;
    return value instanceof Dict && !isMethod(value, soft(name))
      ? new Undefined(`'${soft(name)}' of a dict`)
      : attributeOf(value, soft(name));
  },
  tojson: toJson,
  items: (value, args) => {
    bind('items', args, []);
    if (value instanceof Undefined) return new View([], 'generator');
    if (!(value instanceof Dict)) throw new TemplateRuntimeError('items: can only get items from a mapping');
    return new View(
      value.entries().map((entry) => new Tuple(entry)),
      'generator',
    );
  },
  abs: (value, args) => {
    bind('abs', args, []);
    if (value instanceof Undefined) throw value.error;
    if (!isNumber(value)) throw new TemplateRuntimeError(`abs: '${typeName(value)}' is no number`);
    const number = asNumber(value);
    return number < 0 ? -number : number;
  },
  int: (value, args) => {
    const { default: otherwise = 0n, base = 10n } = bind('int', args, ['default', 'base']);
    if (value instanceof Undefined) throw value.error;
    if (wholeOf(base, 'int') !== 10) throw new UnsupportedError('int with a base');
    if (typeof value === 'string') return wholeFrom(value) ?? truncated(floatFrom(value)) ?? otherwise;
    if (typeof value === 'number') return truncated(value) ?? otherwise;
    return isNumber(value) ? BigInt(value) : otherwise;
  },
  float: (value, args) => {
    const { default: otherwise = 0 } = bind('float', args, ['default']);
    if (value instanceof Undefined) throw value.error;
    if (typeof value === 'string') return floatFrom(value) ?? otherwise;
    return isNumber(value) ? Number(value) : otherwise;
  },
  round: (value, args) => {
    const { precision = 0n, method = 'common' } = bind('round', args, ['precision', 'method']);
    if (value instanceof Undefined) throw value.error;
    const digits = wholeOf(precision, 'round');
    const scaled = numberOf(value, 'round') * 10 ** digits;
    if (method === 'ceil') return Math.ceil(scaled) / 10 ** digits;
    if (method === 'floor') return Math.floor(scaled) / 10 ** digits;
    if (method !== 'common') throw new TemplateRuntimeError('method must be common, ceil or floor');
    if (digits !== 0) throw new UnsupportedError('round to digits');
    const below = Math.floor(scaled);
    // Halves go to the even neighbour.
    const rounded = scaled - below === 0.5 ? below + (Math.abs(below) % 2) : Math.round(scaled);
    return typeof value === 'number' ? rounded : BigInt(rounded);
  },
};

function isMethod(value: Dict, name: string): boolean {
  return !(attributeOf(new Dict(), name) instanceof Undefined) && value instanceof Dict;
}

function defaultOf(value: Value, args: CallArguments): Value {
  const names = ['default_value', 'boolean'] as const;
  const { default_value = '', boolean = false } = bind('default', args, names);
  return value instanceof Undefined || (isTrue(boolean) && !isTrue(value)) ? default_value : value;
}

function wholeFrom(text: string): bigint | undefined {
  const digits = strip(text);
  if (!/^[+-]?\d+(_\d+)*$/.test(digits)) return undefined;
  return BigInt(digits.replaceAll('_', '').replace(/^\+/, ''));
}

function floatFrom(text: string): number | undefined {
  const number = strip(text);
  const special = /^([+-]?)(inf|infinity|nan)$/i.exec(number);
  if (special) {
    if (special[2]?.toLowerCase() === 'nan') return Number.NaN;
    return special[1] === '-' ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  }
  return /^[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?$/i.test(number)
    ? Number(number.replaceAll('_', ''))
    : undefined;
}

function truncated(value: number | undefined): bigint | undefined {
  return value === undefined || !Number.isFinite(value) ? undefined : BigInt(Math.trunc(value));
}

export function applyFilter(name: string, value: Value, args: CallArguments): Value {
  const filter = Object.hasOwn(FILTERS, name) ? FILTERS[name] : undefined;
  if (filter) return filter(value, args);
  if (KNOWN_FILTERS.has(name)) throw new UnsupportedError(`the filter '${name}'`);
  throw new TemplateRuntimeError(`there is no filter '${name}'`);
}
