// Methods of Python's `str`.

import { bind, bindPlaces, optionalWhole, textOf, wholeOf } from './arguments.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { sliceBounds } from './slices.js';
import {
  capitalize,
  isSpace,
  lengthOf,
  pointsOf,
  splitLines,
  splitWords,
  splitWordsFromRight,
  strip,
  stripEnd,
  stripStart,
  titleCase,
} from './text.js';
import { type CallArguments, isTrue, iterate, List, Tuple, typeName, type Value } from './values.js';

type Method = (text: string, args: CallArguments) => Value;

/** Where `part` is in the points from `start` to `end`, or -1. */
function place(what: string, text: string, args: CallArguments, fromRight: boolean): number {
  const [part = '', start, end] = bindPlaces(what, args, 1, 3);
  const points = pointsOf(text);
  const bounds = sliceBounds(points.length, start, end);
  const within = points.slice(bounds.start, bounds.stop).join('');
  const sought = textOf(part, what);
  const at = fromRight ? within.lastIndexOf(sought) : within.indexOf(sought);
  if (at < 0 || bounds.start > bounds.stop) return -1;
  return bounds.start + lengthOf(within.slice(0, at));
}

function stripped(what: string, apply: (text: string, characters?: string) => string): Method {
  return (text, args) => {
    const [characters = null] = bindPlaces(what, args, 0, 1);
    return characters === null ? apply(text) : apply(text, textOf(characters, what));
  };
}

function affix(what: string, matches: (text: string, affix: string) => boolean): Method {
  return (text, args) => {
    const [sought = '', start, end] = bindPlaces(what, args, 1, 3);
    const points = pointsOf(text);
    const bounds = sliceBounds(points.length, start, end);
    const part = start === undefined ? text : points.slice(bounds.start, bounds.stop).join('');
    const all = sought instanceof Tuple ? sought.items : [sought];
    return all.some((one) => matches(part, textOf(one, what)));
  };
}

const without = (what: string, args: CallArguments) => void bindPlaces(what, args, 0, 0);

/** A method that takes nothing. */
function plain(what: string, apply: (text: string) => Value): Method {
  return (text, args) => {
    without(what, args);
    return apply(text);
  };
}

/** True where there is a point and all are like that. */
const every = (pattern: RegExp) => (text: string) =>
  text !== '' && pointsOf(text).every((point) => pattern.test(point));

const CASED = /[\p{Lu}\p{Ll}\p{Lt}]/u;

function split(text: string, args: CallArguments, fromRight: boolean): Value {
  const what = fromRight ? 'rsplit' : 'split';
  const { sep = null, maxsplit = -1n } = bind(what, args, ['sep', 'maxsplit']);
  const most = wholeOf(maxsplit, what);
  if (sep === null) {
    const words = fromRight && most >= 0 ? splitWordsFromRight(text, most) : splitWords(text, most);
    return new List(words);
  }
  const separator = textOf(sep, what);
  if (separator === '') throw new TemplateRuntimeError('empty separator');
  const parts = text.split(separator);
  if (most < 0 || parts.length <= most + 1) return new List(parts);
  return new List(
    fromRight
      ? [parts.slice(0, parts.length - most).join(separator), ...parts.slice(parts.length - most)]
      : [...parts.slice(0, most), parts.slice(most).join(separator)],
  );
}

function partition(text: string, args: CallArguments, fromRight: boolean): Value {
  const what = fromRight ? 'rpartition' : 'partition';
  const [sep = ''] = bindPlaces(what, args, 1, 1);
  const separator = textOf(sep, what);
  if (separator === '') throw new TemplateRuntimeError('empty separator');
  const at = fromRight ? text.lastIndexOf(separator) : text.indexOf(separator);
  if (at < 0) return new Tuple(fromRight ? ['', '', text] : [text, '', '']);
  return new Tuple([text.slice(0, at), separator, text.slice(at + separator.length)]);
}

/** @param count no more than these, from the left; all where it is negative */
export function replaceText(text: string, old: string, by: string, count: number): string {
  if (count < 0) return text.split(old).join(by);
  const parts = text.split(old);
  if (parts.length <= count + 1) return parts.join(by);
  return [...parts.slice(0, count), parts.slice(count).join(old)].join(by);
}

function pad(what: string, where: 'left' | 'right' | 'both'): Method {
  return (text, args) => {
    const [width = 0n, fill = ' '] = bindPlaces(what, args, 1, 2);
    const character = textOf(fill, what);
    const missing = Math.max(0, wholeOf(width, what) - lengthOf(text));
    if (lengthOf(character) !== 1) throw new TemplateRuntimeError(`${what} fills with one character`);
    if (missing > 1_000_000) throw new UnsupportedError(`${missing} characters of filling`);
    if (where !== 'both')
      return where === 'left'
        ? text.padStart(text.length + missing * character.length, character)
        : text + character.repeat(missing);
    // Python gives the odd one to the left where the width is odd.
    const left = Math.floor(missing / 2) + (missing & (missing + lengthOf(text)) & 1);
    return character.repeat(left) + text + character.repeat(missing - left);
  };
}

/** `'{} {name}'.format(…)`, without formats and parts of values. */
function format(text: string, { positional, named }: CallArguments): Value {
  let next = 0;
  return text.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (whole, field?: string) => {
    if (whole === '{{' || whole === '}}') return whole.slice(1);
    if (field === undefined) throw new TemplateRuntimeError('a single brace in a format');
    if (!/^\w*$/.test(field)) throw new UnsupportedError(`the format ${whole}`);
    const value = /^\d*$/.test(field) ? positional[field === '' ? next++ : Number(field)] : named.get(field);
    if (value === undefined) throw new TemplateRuntimeError(`no value for ${whole}`);
    return textOfAny(value);
  });
}

function textOfAny(value: Value): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'bigint') return value.toString();
  throw new UnsupportedError(`format of a ${typeName(value)}`);
}

export const STRING_METHODS: Readonly<Record<string, Method>> = {
  capitalize: plain('capitalize', capitalize),
  lower: plain('lower', (text) => text.toLowerCase()),
  upper: plain('upper', (text) => text.toUpperCase()),
  title: plain('title', titleCase),
  swapcase: plain('swapcase', (text) =>
    pointsOf(text)
      .map((point) => (/\p{Lu}/u.test(point) ? point.toLowerCase() : point.toUpperCase()))
      .join(''),
  ),
  strip: stripped('strip', strip),
  lstrip: stripped('lstrip', stripStart),
  rstrip: stripped('rstrip', stripEnd),
  startswith: affix('startswith', (text, start) => text.startsWith(start)),
  endswith: affix('endswith', (text, end) => text.endsWith(end)),
  removeprefix: (text, args) => {
    const [prefix = ''] = bindPlaces('removeprefix', args, 1, 1).map((one) => textOf(one, 'removeprefix'));
    return text.startsWith(prefix) ? text.slice(prefix.length) : text;
  },
  removesuffix: (text, args) => {
    const [suffix = ''] = bindPlaces('removesuffix', args, 1, 1).map((one) => textOf(one, 'removesuffix'));
    return suffix !== '' && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
  },
  split: (text, args) => split(text, args, false),
  rsplit: (text, args) => split(text, args, true),
  partition: (text, args) => partition(text, args, false),
  rpartition: (text, args) => partition(text, args, true),
  splitlines: (text, args) => {
    const { keepends = false } = bind('splitlines', args, ['keepends']);
    return new List(splitLines(text, isTrue(keepends)));
  },
  join: (text, args) => {
    const [parts = null] = bindPlaces('join', args, 1, 1);
    return [...iterate(parts)].map((part) => textOf(part, 'join')).join(text);
  },
  replace: (text, args) => {
    const [old = '', by = '', count = -1n] = bindPlaces('replace', args, 2, 3);
    const [from, to] = [textOf(old, 'replace'), textOf(by, 'replace')];
    return replaceAny(text, from, to, optionalWhole(count, 'replace') ?? -1);
  },
  find: (text, args) => BigInt(place('find', text, args, false)),
  rfind: (text, args) => BigInt(place('rfind', text, args, true)),
  index: (text, args) => found(place('index', text, args, false)),
  rindex: (text, args) => found(place('rindex', text, args, true)),
  count: (text, args) => {
    const [part = ''] = bindPlaces('count', args, 1, 1);
    const sought = textOf(part, 'count');
    return BigInt(sought === '' ? lengthOf(text) + 1 : text.split(sought).length - 1);
  },
  center: pad('center', 'both'),
  ljust: pad('ljust', 'right'),
  rjust: pad('rjust', 'left'),
  zfill: (text, args) => {
    const [width = 0n] = bindPlaces('zfill', args, 1, 1);
    const sign = /^[+-]/.exec(text)?.[0] ?? '';
    return sign + text.slice(sign.length).padStart(wholeOf(width, 'zfill') - sign.length, '0');
  },
  format,
  isspace: plain('isspace', isSpace),
  isalpha: plain('isalpha', every(/\p{L}/u)),
  isdecimal: plain('isdecimal', every(/\p{Nd}/u)),
  isascii: plain('isascii', (text) => pointsOf(text).every((point) => (point.codePointAt(0) ?? 0) < 128)),
  isupper: plain('isupper', (text) => CASED.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text)),
  islower: plain('islower', (text) => CASED.test(text) && !/[\p{Lu}\p{Lt}]/u.test(text)),
};

/** An empty text is found between all points, and at both ends. */
export function replaceAny(text: string, old: string, by: string, count: number): string {
  if (old !== '') return replaceText(text, old, by, count);
  const points = ['', ...pointsOf(text)];
  const most = count < 0 ? points.length : count;
  return points.map((point, index) => point + (index < most ? by : '')).join('');
}

function found(at: number): Value {
  if (at < 0) throw new TemplateRuntimeError('substring not found');
  return BigInt(at);
}
