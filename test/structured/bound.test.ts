// A model that is fond of verse, bound to a schema: every text obeys it, drawn the same again, beside texts that are free.

import { afterAll, beforeAll, expect, it } from 'vitest';
import { type BoundRun, openBound } from '../../bench/structured-run.js';

let run: BoundRun;

beforeAll(async () => {
  run = await openBound({
    folder: 'test/fixtures/models/shakespeare-bloom',
    batch: 16,
    device: 'cpu',
    threads: 2,
  });
});
afterAll(() => run.close());

it('every text obeys the schema and ends by itself, and is the same again among others', async () => {
  const first = await run.bound(24, 0);
  expect(first.texts.filter((_, at) => !first.obeys[at])).toEqual([]);
  expect(new Set(first.texts).size).toBeGreaterThan(12);
  const again = await run.bound(5, 3);
  expect(again.texts).toEqual(first.texts.slice(3, 8));
});
