// What the scheduler says of the pass to come, so that layers are fetched for it while the one before ends.

import { expect, it } from 'vitest';
import type { Pass } from '../../offload/index.js';
import { tokenCount } from '../../offload/run/pass.js';
import { generate } from '../../src/engine/generate.js';
import { HashedCache } from '../helpers/hashed-cache.js';

const MOST_CHOOSING_TOKENS = 4;

/** Each pass of requests with prompts and new tokens of these numbers: its tokens, and what was expected of the next one. */
async function passesOf(requests: readonly { readonly prompt: number; readonly newTokens: number }[]) {
  const { executor } = new HashedCache({
    sizes: {
      pageTokens: 4,
      kvPages: 100,
      sequences: 6,
      contextTokens: 60,
      passTokens: 32,
      microBatchTokens: 32,
      microBatchSequences: 6,
    },
    vocabSize: 50,
    deviceCount: 1,
  });
  const seen: { readonly tokens: number; readonly expectsWhole: boolean | undefined }[] = [];
  const run = (pass: Pass) => {
    const tokens = pass.perDevice.flat().reduce((sum, microBatch) => sum + tokenCount(microBatch), 0);
    seen.push({ tokens, expectsWhole: pass.expectsWhole });
    return executor.run(pass);
  };
  const slots = { mostTokens: MOST_CHOOSING_TOKENS };
  const watched = new Proxy(executor, {
    get: (target, name) =>
      name === 'run' ? run : name === 'plan' ? { ...target.plan, slots } : Reflect.get(target, name),
  });
  await generate(
    watched,
    requests.map(({ prompt, newTokens }, index) => ({
      index,
      maxNewTokens: newTokens,
      promptTokens: Int32Array.from({ length: prompt }, (_, at) => (7 * index + at) % 50),
    })),
    { batchSize: 6, maxNewTokens: 5, stopTokens: new Set() },
  );
  const whole = seen.map(({ tokens }) => tokens > MOST_CHOOSING_TOKENS);
  return { whole, expected: seen.map(({ expectsWhole }) => expectsWhole) };
}

it('a pass is expected to have layers pass by where it will have more tokens than slots hold', async () => {
  // Some end sooner than others: six go on with more tokens than slots hold, then three with fewer.
  const requests = [2, 2, 2, 5, 5, 5].map((newTokens, index) => ({ prompt: 9 + 5 * index, newTokens }));
  const { whole, expected } = await passesOf(requests);
  expect(expected).toEqual([...whole.slice(1), false]);
  expect(whole).toContain(false);
  expect(whole.slice(0, 2)).toEqual([true, true]);
});

it('those that wait for places bring as much as those that end', async () => {
  const { whole, expected } = await passesOf(Array.from({ length: 18 }, () => ({ prompt: 5, newTokens: 1 })));
  expect(whole).toEqual([true, true, true]);
  expect(expected).toEqual([true, true, false]);
});
