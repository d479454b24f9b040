// Bodies: what names the prototype is left out however it is written, and all else is read as it is.

import { expect, it } from 'vitest';
import { MOST_DEPTH, MOST_VALUES, parseBody } from '../../src/server/body.js';

it.each(['__proto__', '\\u005f_proto__', '_\\u005Fpr\\u006fto__'])(
  'the name %s is left out, at any depth',
  (name) => {
    const body = Buffer.from(`{"a": [{"${name}": {"isKing": true}, "b": "__proto__"}], "${name}": 1}`);
    const read = parseBody(body) as { a: [object] };
    expect(read).toEqual({ a: [{ b: '__proto__' }] });
    expect(Object.hasOwn(read.a[0], '__proto__')).toBe(false);
    expect(Object.hasOwn(read, '__proto__')).toBe(false);
  },
);

it('what is like it stays', () => {
  expect(parseBody(Buffer.from('{"_proto_": "\\u005f", "__proto": [1]}'))).toEqual({
    _proto_: '_',
    __proto: [1],
  });
});

it('brackets and commas in strings count for nothing, whatever is escaped around them', () => {
  const nested = (depth: number) => `${'['.repeat(depth)}"\\\\"${']'.repeat(depth)}`;
  expect(() => parseBody(Buffer.from(nested(MOST_DEPTH)))).not.toThrow();
  expect(() => parseBody(Buffer.from(nested(MOST_DEPTH + 1)))).toThrow(/deeper/);
  const text = '[,"\\'.repeat(MOST_VALUES + 1);
  expect(parseBody(Buffer.from(JSON.stringify({ text, more: [text] })))).toEqual({ text, more: [text] });
  expect(() => parseBody(Buffer.from('["a'))).toThrow(/no JSON/);
});

it('more values than may be are refused before they are read', () => {
  const ids = (count: number) => Buffer.from(JSON.stringify(Array.from({ length: count }, () => 1)));
  expect(parseBody(ids(MOST_VALUES))).toHaveLength(MOST_VALUES);
  expect(() => parseBody(ids(MOST_VALUES + 2))).toThrow(/send long prompts as texts/);
});
