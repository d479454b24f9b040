// A set of places: what was added is there once, however far apart places are and however many there are.

import { expect, it } from 'vitest';
import { PlaceSet } from '../../src/files/place-set.js';

it('has what was added, once, in increasing order', () => {
  const far = 2 ** 27 + 5;
  const set = PlaceSet.of([9, 0, far, 8191, 8192, 9]);
  expect(set.size).toBe(5);
  expect([set.has(0), set.has(1), set.has(far), set.has(far - 1), set.has(2 ** 40)]).toEqual([
    true,
    false,
    true,
    false,
    false,
  ]);
  expect([...PlaceSet.of([9, 0, 8192, 8191, 7])]).toEqual([0, 7, 9, 8191, 8192]);
});

it('holds more than a set of numbers can', () => {
  const set = new PlaceSet();
  const count = 2 ** 24 + 10;
  for (let place = 0; place < count; place++) set.add(place);
  expect(set.size).toBe(count);
  expect(set.has(count - 1)).toBe(true);
});
