// Values as JSON, of any length: long ones are written in slices, and others get their turn in between.

import { Turns } from './turns.js';

/** Characters of a text, or entries of a list, that are written at once. */
const AT_ONCE = 1 << 13;

/** The same bytes as of JSON.stringify, for values of lists, plain objects, texts, numbers and the like. */
export async function jsonBytes(value: object): Promise<Buffer> {
  if (isShort(value, { left: AT_ONCE })) return Buffer.from(JSON.stringify(value));
  const turns = new Turns();
  const all: Buffer[] = [];
  let held = '';
  for (const piece of pieces(value)) {
    held += piece;
    if (held.length < AT_ONCE) continue;
    all.push(Buffer.from(held));
    held = '';
    if (turns.isOver) await turns.next();
  }
  all.push(Buffer.from(held));
  return Buffer.concat(all);
}

/** Whether there is no more than that in it; looks no further. */
function isShort(value: unknown, most: { left: number }): boolean {
  if (typeof value === 'string') most.left -= value.length;
  else if (typeof value !== 'object' || value === null) most.left--;
  else if (Array.isArray(value) && value.length > most.left) return false;
  else for (const one of Object.values(value)) if (!isShort(one, most)) return false;
  return most.left >= 0;
}

function* pieces(value: unknown): Generator<string, void> {
  if (typeof value === 'string') yield* piecesOfText(value);
  else if (typeof value !== 'object' || value === null) yield JSON.stringify(value) ?? 'null';
  else if (isShort(value, { left: AT_ONCE })) yield JSON.stringify(value);
  else if (Array.isArray(value)) yield* piecesOfList(value);
  else {
    let before = '{';
    for (const [key, one] of Object.entries(value)) {
      if (one === undefined) continue;
      yield `${before}${JSON.stringify(key)}:`;
      yield* pieces(one);
      before = ',';
    }
    yield before === '{' ? '{}' : '}';
  }
}

function* piecesOfText(text: string): Generator<string, void> {
  yield '"';
  for (let begin = 0; begin < text.length; ) {
    let end = begin + AT_ONCE;
    // A pair of surrogates is one character.
    if (/[\ud800-\udbff]/.test(text.charAt(end - 1))) end++;
    yield JSON.stringify(text.slice(begin, end)).slice(1, -1);
    begin = end;
  }
  yield '"';
}

function* piecesOfList(list: readonly unknown[]): Generator<string, void> {
  yield '[';
  for (let begin = 0; begin < list.length; ) {
    if (begin > 0) yield ',';
    let end = begin;
    while (end < list.length && end - begin < AT_ONCE && typeof list[end] === 'number') end++;
    if (end > begin) yield JSON.stringify(list.slice(begin, end)).slice(1, -1);
    else yield* pieces(list[begin]);
    begin = Math.max(end, begin + 1);
  }
  yield ']';
}
