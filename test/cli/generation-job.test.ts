// What `generate` is to do: prompts are encoded once, whatever looks at their lengths, and again only where that is timed.

import { expect, test } from 'vitest';
import type { GenerateOptions } from '../../src/cli/generate-options.js';
import { encodeJob, fillJob, makeRequests } from '../../src/cli/generation-job.js';
import { openModel } from '../../src/engine.js';
import type { Tokenizer } from '../../src/tokenizer.js';
import { modelFolder } from '../helpers/fixtures.js';

const OPTIONS = {
  batchSize: 1,
  deviceCount: 1,
  maxNewTokens: 4,
  maxContext: undefined,
  chat: undefined,
  stopStrings: [],
  samples: undefined,
  sampling: undefined,
  promptsFile: undefined,
  ignoreEos: true,
  benchmark: undefined,
} as unknown as GenerateOptions;

const source = { opened: await openModel(modelFolder('stories260K')), files: [], fileStates: [] };
const GIVEN = [{ text: 'Once upon a time' }, { text: 'A dog' }];

function counting(tokenizer: Tokenizer | undefined) {
  const counted = { encodings: 0 };
  const proxy = new Proxy(tokenizer as Tokenizer, {
    get(target, name) {
      if (String(name).startsWith('encode')) counted.encodings++;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { counted, proxy };
}

test('requests are made of what was encoded before, and anew where encoding is timed', async () => {
  const encoded = await encodeJob(source, GIVEN, OPTIONS);
  const { counted, proxy } = counting(encoded.vocabulary.tokenizer);
  const job = { ...fillJob(encoded, OPTIONS), vocabulary: { ...encoded.vocabulary, tokenizer: proxy } };
  const requests = await makeRequests(job, OPTIONS, [0, 1]);
  expect(counted.encodings).toBe(0);
  const timed = { ...OPTIONS, benchmark: { warmupCycles: 0, cycles: 1 } };
  expect(await makeRequests(job, timed, [0, 1])).toEqual(requests);
  expect(counted.encodings).toBeGreaterThan(0);
  expect(requests.map(({ index }) => index)).toEqual([0, 1]);
});

test('a batch is filled with prompts that are encoded already, each with a place of its own', async () => {
  const wide = { ...OPTIONS, batchSize: 5, samples: 2 };
  const builtIn = await encodeJob(source, [], wide);
  const { prompts, encoded } = fillJob(builtIn, { ...wide, batchSize: builtIn.prompts.length + 3 });
  expect(prompts).toHaveLength(builtIn.prompts.length + 3);
  expect(encoded.map(({ index, sample }) => [index, sample])).toEqual(
    prompts.flatMap((_, index) => [0, 1].map((sample) => [index, sample])),
  );
  expect(encoded.at(-1)?.tokens).toEqual(builtIn.encoded[2]?.tokens);
  // One's own are only repeated to measure.
  const own = await encodeJob(source, GIVEN, OPTIONS);
  expect(fillJob(own, wide).prompts).toHaveLength(2);
  const timed = { ...wide, benchmark: { warmupCycles: 0, cycles: 1 } };
  expect(fillJob(own, timed).prompts).toHaveLength(5);
});
