// A pattern for what a JSON string says, as a pattern for how it is written: quotes and backslashes escaped, nothing beyond its end.

/** What stands for itself in a JSON string, as the inside of a class that is negated. */
const NO_PLAIN = '"\\\\\\x00-\\x1f';

/** In place of what stands for many characters. */
const ANY: Readonly<Record<string, string>> = {
  S: `[^ ${NO_PLAIN}]`,
  W: `[^a-zA-Z0-9_${NO_PLAIN}]`,
  D: `[^0-9${NO_PLAIN}]`,
  // Others than the space would have to be escaped.
  s: '[ ]',
};

/** Characters that JSON writes with a backslash, by how patterns write them. */
const ESCAPED: Readonly<Record<string, string>> = {
  '\\': '\\\\\\\\',
  n: '\\\\n',
  r: '\\\\r',
  t: '\\\\t',
  f: '\\\\f',
  '"': '\\\\"',
};

/** Undefined for a pattern that cannot be written so. */
export function patternWithinString(pattern: string): string | undefined {
  let result = '';
  for (let at = 0; at < pattern.length; ) {
    const character = pattern.charAt(at);
    if (character === '[') {
      const end = classEnd(pattern, at);
      if (end === undefined) return undefined;
      const inside = classWithinString(pattern.slice(at + 1, end));
      if (inside === undefined) return undefined;
      result += inside;
      at = end + 1;
    } else if (character === '\\') {
      const escaped = pattern.charAt(at + 1);
      result += ANY[escaped] ?? ESCAPED[escaped] ?? `\\${escaped}`;
      at += 2;
    } else {
      if (character === '.') result += `[^${NO_PLAIN}]`;
      else if (character === '"') result += ESCAPED['"'];
      else result += character;
      at++;
    }
  }
  return result;
}

function classEnd(pattern: string, start: number): number | undefined {
  for (let at = start + 1; at < pattern.length; at++) {
    const character = pattern.charAt(at);
    if (character === '\\') at++;
    else if (character === ']' && at > start + 1) return at;
  }
  return undefined;
}

const SHORT: Readonly<Record<string, string>> = { d: '0-9', w: 'a-zA-Z0-9_', s: ' ' };
const LETTERS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, b: 8, 0: 0 };

/** A class of characters that stand for themselves; those that would not are left out. */
function classWithinString(inside: string): string | undefined {
  const negated = inside.startsWith('^');
  const items = classItems(negated ? inside.slice(1) : inside);
  if (!items) return undefined;
  const text = items
    .flatMap((item) =>
      typeof item === 'string' ? [item] : negated ? [spelt(item)] : plainParts(item).map(spelt),
    )
    .join('');
  if (negated) return `[^${text}${NO_PLAIN}]`;
  return text === '' ? undefined : `[${text}]`;
}

type Range = readonly [number, number];

function classItems(inside: string): (string | Range)[] | undefined {
  const items: (string | Range)[] = [];
  const read = /\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\([\s\S])|([\s\S])/uy;
  const next = (): number | string | undefined => {
    const found = read.exec(inside);
    if (!found) return undefined;
    const [, four, two, escaped, plain] = found;
    const hex = four ?? two;
    if (hex !== undefined) return Number.parseInt(hex, 16);
    if (escaped === undefined) return plain?.codePointAt(0);
    return (
      SHORT[escaped] ?? ('SWD'.includes(escaped) ? 'none' : (LETTERS[escaped] ?? escaped.codePointAt(0)))
    );
  };
  for (let first = next(); first !== undefined; first = next()) {
    if (first === 'none') return undefined;
    if (typeof first === 'string') {
      items.push(first);
      continue;
    }
    const place = read.lastIndex;
    const isRange = inside[place] === '-' && place + 1 < inside.length;
    if (!isRange) {
      items.push([first, first]);
      continue;
    }
    read.lastIndex = place + 1;
    const last = next();
    if (typeof last !== 'number' || last < first) return undefined;
    items.push([first, last]);
  }
  return items;
}

/** Without what JSON strings write with a backslash. */
function plainParts([first, last]: Range): Range[] {
  const cuts: Range[] = [
    [0x20, 0x21],
    [0x23, 0x5b],
    [0x5d, 0x10ffff],
  ];
  return cuts
    .map(([from, to]): Range => [Math.max(first, from), Math.min(last, to)])
    .filter(([from, to]) => from <= to);
}

function spelt([first, last]: Range): string {
  return first === last ? escapedIn(first) : `${escapedIn(first)}-${escapedIn(last)}`;
}

function escapedIn(code: number): string {
  if (code < 0x20) return `\\x${code.toString(16).padStart(2, '0')}`;
  const character = String.fromCodePoint(code);
  return ']\\^-["'.includes(character) ? `\\${character}` : character;
}
