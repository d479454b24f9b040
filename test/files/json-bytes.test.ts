// Values of any length as JSON: the bytes that JSON.stringify gives, while others get their turn.

import { expect, it } from 'vitest';
import { jsonBytes } from '../../src/files/json-bytes.js';

const LONG = `${'a"\\\n🎭é\u0001'.repeat(9000)}\ud83c`;

it.each<[string, object]>([
  ['a short one', { a: [1, 'b', null, true, {}], c: undefined, d: [] }],
  ['a long text', { text: LONG, more: [LONG.slice(1), LONG.slice(2)] }],
  ['many numbers', { ids: Array.from({ length: 40_000 }, (_, at) => at / 2), none: undefined, last: 1 }],
  [
    'many of all kinds',
    Array.from({ length: 20_000 }, (_, at) => [at, null, undefined, 'x', { at }, [[]]][at % 6]),
  ],
  ['an object of nothing', { nothing: undefined, within: { long: LONG, empty: {}, none: undefined } }],
])('%s', async (_, value) => {
  expect((await jsonBytes(value)).toString()).toBe(Buffer.from(JSON.stringify(value)).toString());
});

it('gives others their turn', async () => {
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  await jsonBytes(Array.from({ length: 2_000_000 }, (_, at) => at));
  clearInterval(timer);
  expect(turns).toBeGreaterThan(1);
});
