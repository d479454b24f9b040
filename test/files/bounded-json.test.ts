// Bounded JSON: what names the prototype is left out however it is written, and all else is read as it is.

import { expect, it } from 'vitest';
import {
  MOST_DEPTH,
  MOST_NAMES,
  MOST_NESTED,
  MOST_VALUES,
  parseBounded,
  parseBoundedAside,
} from '../../src/files/bounded-json.js';

function parsed(bytes: Buffer): unknown {
  const result = parseBounded(bytes);
  if ('value' in result) return result.value;
  throw new Error(result.problem);
}

it.each(['__proto__', '\\u005f_proto__', '_\\u005Fpr\\u006fto__'])(
  'the name %s is left out, at any depth',
  (name) => {
    const body = Buffer.from(`{"a": [{"${name}": {"isKing": true}, "b": "__proto__"}], "${name}": 1}`);
    const read = parsed(body) as { a: [object] };
    expect(read).toEqual({ a: [{ b: '__proto__' }] });
    expect(Object.hasOwn(read.a[0], '__proto__')).toBe(false);
    expect(Object.hasOwn(read, '__proto__')).toBe(false);
  },
);

it('what is like it stays', () => {
  expect(parsed(Buffer.from('{"_proto_": "\\u005f", "__proto": [1]}'))).toEqual({
    _proto_: '_',
    __proto: [1],
  });
});

it('brackets and commas in strings count for nothing, whatever is escaped around them', () => {
  const nested = (depth: number) => `${'['.repeat(depth)}"\\\\"${']'.repeat(depth)}`;
  expect(() => parsed(Buffer.from(nested(MOST_DEPTH)))).not.toThrow();
  expect(() => parsed(Buffer.from(nested(MOST_DEPTH + 1)))).toThrow(/deeper/);
  const text = '[,"\\'.repeat(MOST_VALUES + 1);
  expect(parsed(Buffer.from(JSON.stringify({ text, more: [text] })))).toEqual({ text, more: [text] });
  expect(() => parsed(Buffer.from('["a'))).toThrow(/no JSON/);
});

it('more values than may be are refused before they are read', () => {
  const ids = (count: number) => Buffer.from(JSON.stringify(Array.from({ length: count }, () => 1)));
  expect(parsed(ids(MOST_VALUES))).toHaveLength(MOST_VALUES);
  expect(() => parsed(ids(MOST_VALUES + 2))).toThrow(/send long prompts as texts/);
});

it('more lists, objects and names than may be are refused, too', () => {
  const of = (one: string, count: number) => Buffer.from(`[${Array(count).fill(one).join(',')}]`);
  expect(parsed(of('{}', MOST_NESTED - 1))).toHaveLength(MOST_NESTED - 1);
  expect(() => parsed(of('{}', MOST_NESTED))).toThrow(/lists and objects/);
  const names = (count: number) =>
    Buffer.from(`{${Array.from({ length: count }, (_, at) => `"${at}::":1`)}}`);
  expect(Object.keys(parsed(names(MOST_NAMES)) as object)).toHaveLength(MOST_NAMES);
  expect(() => parsed(names(MOST_NAMES + 1))).toThrow(/names/);
});

it('long ones are the same on another thread', async () => {
  const value = { text: '"\\é🎭'.repeat(40_000), ids: [1, 2] };
  expect(await parseBoundedAside(Buffer.from(JSON.stringify(value)))).toEqual({ value });
  expect(await parseBoundedAside(Buffer.from(`${JSON.stringify(value)}}`))).toEqual({
    problem: 'is no JSON: check quotes and commas',
  });
  const large = Buffer.from(JSON.stringify([value, value]));
  const part = large.subarray(1, large.length / 2);
  expect(await parseBoundedAside(part)).toEqual({ value });
  // Whoever has the rest of it still does.
  expect(JSON.parse(large.toString())).toEqual([value, value]);
});
