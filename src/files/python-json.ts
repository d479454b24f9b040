// JSON as Python writes it, where NaN, Infinity and -Infinity are numbers.

/** Stands for NaN while JSON.parse reads, which has no number for it; no file holds this one. */
const NAN_LITERAL = '-7.2057594037927937e-283';
const NAN_STAND_IN = Number(NAN_LITERAL);
/** JSON has no word for infinity, but numbers too large for a double become it. */
const LITERALS: Readonly<Record<string, string>> = {
  NaN: NAN_LITERAL,
  Infinity: '1e999',
  '-Infinity': '-1e999',
};

/** Throws the SyntaxError of JSON.parse. */
export function parsePythonJson(text: string): unknown {
  // Some editors write a byte order mark, which JSON.parse refuses.
  const json = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  try {
    return JSON.parse(json);
  } catch (error) {
    const rewritten = withLiterals(json);
    if (rewritten === undefined) throw error;
    return JSON.parse(rewritten, (_key, value: unknown) => (value === NAN_STAND_IN ? Number.NaN : value));
  }
}

/** The text with literals for Python's three words where a value may stand; undefined where it has none of them. */
function withLiterals(json: string): string | undefined {
  const parts: string[] = [];
  let copied = 0;
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === '"') i = stringEnd(json, i);
    else if (character === 'N' || character === 'I' || character === '-') {
      const word = Object.keys(LITERALS).find((candidate) => json.startsWith(candidate, i));
      if (word === undefined || !standsAlone(json, i, i + word.length)) continue;
      parts.push(json.slice(copied, i), LITERALS[word] ?? '');
      copied = i + word.length;
      i = copied - 1;
    }
  }
  return copied === 0 ? undefined : [...parts, json.slice(copied)].join('');
}

/** Index of the quote that closes the string opened at `start`, or the text's end. */
function stringEnd(json: string, start: number): number {
  let end = start + 1;
  while (end < json.length && json[end] !== '"') end += json[end] === '\\' ? 2 : 1;
  return end;
}

/** Whether [begin, end) is a value by itself and not a part of a longer word. */
function standsAlone(json: string, begin: number, end: number): boolean {
  return /^[\s,:[]?$/.test(json[begin - 1] ?? '') && /^[\s,\]}]?$/.test(json[end] ?? '');
}
