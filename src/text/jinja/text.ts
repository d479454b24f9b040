// Python's idea of text: code points, its whitespace, its line ends.

/** What `str.isspace` and `\s` are in Python, as the inside of a character class. */
export const WHITESPACE =
  '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const LEADING = new RegExp(`^[${WHITESPACE}]+`);
const ONE_SPACE = new RegExp(`^[${WHITESPACE}]$`);
const WORDS = new RegExp(`[^${WHITESPACE}]+`, 'g');
const LINE_ENDS = '\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029';
const LINE_END = new RegExp(`\\r\\n|[${LINE_ENDS}]`, 'g');
const SURROGATE = /[\ud800-\udfff]/;

export function stripStart(text: string, characters?: string): string {
  if (characters === undefined) return text.replace(LEADING, '');
  const drop = new Set(characters);
  const points = [...text];
  const first = points.findIndex((point) => !drop.has(point));
  return first < 0 ? '' : points.slice(first).join('');
}

export function stripEnd(text: string, characters?: string): string {
  if (characters === undefined) {
    let end = text.length;
    while (end > 0 && ONE_SPACE.test(text[end - 1] ?? '')) end--;
    return text.slice(0, end);
  }
  const drop = new Set(characters);
  const points = [...text];
  const last = points.findLastIndex((point) => !drop.has(point));
  return points.slice(0, last + 1).join('');
}

export function strip(text: string, characters?: string): string {
  return stripEnd(stripStart(text, characters), characters);
}

export function isSpace(text: string): boolean {
  return text !== '' && stripStart(text) === '';
}

/** The code points. */
export function pointsOf(text: string): string[] {
  return SURROGATE.test(text) ? [...text] : text.split('');
}

export function lengthOf(text: string): number {
  return SURROGATE.test(text) ? [...text].length : text.length;
}

/** Words between whitespace; no more than `most` cuts from the left. */
export function splitWords(text: string, most = -1): string[] {
  if (most < 0) return text.match(WORDS) ?? [];
  const words: string[] = [];
  let rest = stripStart(text);
  while (rest !== '' && words.length < most) {
    const word = rest.match(WORDS)?.[0] ?? rest;
    words.push(word);
    rest = stripStart(rest.slice(word.length));
  }
  if (rest !== '') words.push(rest);
  return words;
}

/** The same from the right. */
export function splitWordsFromRight(text: string, most: number): string[] {
  const words: string[] = [];
  let rest = stripEnd(text);
  while (rest !== '' && words.length < most) {
    const word = rest.match(WORDS)?.at(-1) ?? rest;
    words.unshift(word);
    rest = stripEnd(rest.slice(0, rest.length - word.length));
  }
  if (rest !== '') words.unshift(rest);
  return words;
}

export function splitLines(text: string, keepEnds = false): string[] {
  const lines: string[] = [];
  let start = 0;
  for (const end of text.matchAll(LINE_END)) {
    lines.push(text.slice(start, end.index + (keepEnds ? end[0].length : 0)));
    start = end.index + end[0].length;
  }
  if (start < text.length) lines.push(text.slice(start));
  return lines;
}

const isCased = (point: string) => /[\p{Lu}\p{Ll}\p{Lt}]/u.test(point);

/** `str.title`: the first letter of every run of letters is large, the others are small. */
export function titleCase(text: string): string {
  let inWord = false;
  return pointsOf(text)
    .map((point) => {
      const cased = isCased(point);
      const changed = cased ? (inWord ? point.toLowerCase() : point.toUpperCase()) : point;
      inWord = cased;
      return changed;
    })
    .join('');
}

export function capitalize(text: string): string {
  const [first = '', ...rest] = pointsOf(text);
  return first.toUpperCase() + rest.join('').toLowerCase();
}
