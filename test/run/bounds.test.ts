// Numbers from outside that become indices: each is refused by name before anything is read or written with it.

import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { GiB, type MicroBatch } from '../../offload/index.js';
import { rowPlace } from '../../offload/model/table-rows.js';
import { checkMicroBatch } from '../../offload/run/check-pass.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import { GREEDY } from '../../src/engine/sampler.js';
import { score } from '../../src/engine/score.js';
import { modelFolder } from '../helpers/fixtures.js';

const VOCABULARY = 384;
/** GPT-2's, whose positions are a table of so many rows. */
const CONTEXT = 256;

async function engineFor(output: 'tokens' | 'nll', contextTokens = CONTEXT): Promise<Engine> {
  const engine = await Engine.open(await openModel(modelFolder('gpt2')), {
    offload: 'nvme',
    dramBudgetBytes: GiB,
    cpu: { threads: 1 },
    workload: { sequences: 3, contextTokens, promptTokens: 64, output },
  });
  onTestFinished(() => engine.close());
  return engine;
}

const request = (index: number, tokens: readonly number[]): GenerationRequest => ({
  index,
  promptTokens: Int32Array.from(tokens),
});

const OPTIONS = { batchSize: 3, maxNewTokens: 4, stopTokens: new Set([-5, VOCABULARY + 1, Number.NaN]) };

describe('generate', () => {
  let sound: GenerationResult[];
  beforeAll(async () => {
    const engine = await Engine.open(await openModel(modelFolder('gpt2')), {
      offload: 'nvme',
      dramBudgetBytes: GiB,
      workload: { sequences: 3, contextTokens: CONTEXT, promptTokens: 64, output: 'tokens' },
    });
    sound = await generate(engine.executor, [request(0, [3, 4]), request(2, [VOCABULARY - 1])], OPTIONS);
    await engine.close();
  });

  const cases: readonly (readonly [string, Partial<GenerationRequest>, string, RegExp])[] = [
    [
      'an id beyond the vocabulary',
      request(1, [5, VOCABULARY]),
      'BAD_INPUT',
      /prompt 1 has token id 384 at 1/,
    ],
    ['an id beyond all tensors', request(1, [2 ** 31 - 1]), 'BAD_INPUT', /token id 2147483647 at 0/],
    ['a negative id', request(1, [-1, 5]), 'BAD_INPUT', /prompt 1 has -1 at 0/],
    ['no tokens', request(1, []), 'EMPTY_PROMPT', /prompt 1 has no tokens/],
    ['more than the context', request(1, Array(CONTEXT - 3).fill(1)), 'PROMPT_TOO_LONG', /room for 256/],
    ...[Float32Array.of(1.5), [1, 2], BigInt64Array.of(3n), Uint16Array.of(4), undefined].map(
      (promptTokens) =>
        [
          `${promptTokens?.constructor.name ?? 'nothing'} as tokens`,
          { promptTokens: promptTokens as unknown as Int32Array },
          'BAD_INPUT',
          /give an Int32Array/,
        ] as const,
    ),
    ['no new tokens', { maxNewTokens: 0 }, 'BAD_OPTION', /is to get 0 new tokens/],
    ['half a new token', { maxNewTokens: 1.5 }, 'BAD_OPTION', /is to get 1.5 new tokens/],
    ['more than there is room for', { maxNewTokens: 300 }, 'PROMPT_TOO_LONG', /to get 300 more/],
    ['a temperature that is none', { sampling: { ...GREEDY, temperature: Number.NaN } }, 'BAD_OPTION', /NaN/],
    ['a top-k beyond 32 bits', { sampling: { ...GREEDY, topK: 2 ** 32 + 1 } }, 'BAD_OPTION', /top_k/],
  ];
  it.each(cases)('%s ends that text alone', async (_, wrong, code, message) => {
    const { executor } = await engineFor('tokens');
    const spoilt = { ...request(1, [5]), ...wrong };
    const requests = [request(0, [3, 4]), spoilt, request(2, [VOCABULARY - 1])];
    const [first, second, third] = await generate(executor, requests, OPTIONS);
    expect([first, third]).toEqual(sound);
    expect(second).toMatchObject({ index: 1, tokens: [], finishReason: 'error', problem: { code } });
    expect(second?.problem?.message).toMatch(message);
  });

  it('may have nothing but such texts, and takes sound ones afterwards', async () => {
    const { executor } = await engineFor('tokens');
    const finished: number[] = [];
    const onFinished = ({ index }: GenerationResult) => void finished.push(index);
    const results = await generate(executor, [request(7, [-1]), request(8, [])], { ...OPTIONS, onFinished });
    expect(results.map(({ problem }) => problem?.code)).toEqual(['BAD_INPUT', 'EMPTY_PROMPT']);
    expect(finished).toEqual([7, 8]);
    expect(await generate(executor, [request(0, [3, 4])], OPTIONS)).toEqual(sound.slice(0, 1));
  });
});

describe('score', () => {
  it.each([
    [[1, VOCABULARY, 2], /the text has token id 384 at 1/],
    [[1, 2, -7], /the text has -7 at 2/],
    [[1, 2, 2 ** 31 - 1], /the text has token id 2147483647 at 2/],
  ])('refuses %j', async (ids, message) => {
    const { executor } = await engineFor('nll');
    const scored = score(executor, Int32Array.from(ids), { windowTokens: 16 });
    await expect(scored).rejects.toMatchObject({
      code: 'BAD_INPUT',
      message: expect.stringMatching(message),
    });
  });

  it('refuses other arrays', async () => {
    const { executor } = await engineFor('nll');
    const ids = Float64Array.of(1, 2.5, 3) as unknown as Int32Array;
    await expect(score(executor, ids, { windowTokens: 16 })).rejects.toThrow(/give an Int32Array/);
  });
});

describe('passes', () => {
  const model = { vocabSize: 100, maxContextTokens: 64, caches: [] };
  const plan = {
    kvPages: 4,
    horizons: [],
    pageTokens: 16,
    sequences: 2,
    nll: false,
    readLogits: false,
    addedTokens: 0,
    topLogProbs: 0,
    maskWords: 0,
  };
  const slice = { startPosition: 0, tokens: Int32Array.of(1, 2), pages: [3] };
  const sound: MicroBatch = { slices: [slice], outputs: Int32Array.of(1) };
  const target = (value: number) => ({ ...sound, targets: Int32Array.of(value) });

  it('as they should be are taken', () => {
    checkMicroBatch(sound, model, plan);
    checkMicroBatch(target(99), model, { ...plan, nll: true });
    checkMicroBatch({ slices: [], outputs: new Int32Array(0) }, model, plan);
  });

  it.each<readonly [string, MicroBatch, RegExp]>([
    ['a page that is none', { ...sound, slices: [{ ...slice, pages: [4] }] }, /pages are those/],
    ['a negative page', { ...sound, slices: [{ ...slice, pages: [-1] }] }, /pages are those/],
    ['half a page', { ...sound, slices: [{ ...slice, pages: [0.5] }] }, /pages are those/],
    ['too few pages', { ...sound, slices: [{ ...slice, startPosition: 15 }] }, /pages are those/],
    ['a start before the first', { ...sound, slices: [{ ...slice, startPosition: -1 }] }, /at a position/],
    ['a start between two', { ...sound, slices: [{ ...slice, startPosition: 0.5 }] }, /at a position/],
    ['more than the context', { ...sound, slices: [{ ...slice, startPosition: 63 }] }, /context is 64/],
    ['an output that is no token', { ...sound, outputs: Int32Array.of(2) }, /outputs are tokens/],
    ['a negative output', { ...sound, outputs: Int32Array.of(-1) }, /outputs are tokens/],
    ['fewer draws than outputs', { ...sound, sampling: [] }, /drawn in its own way/],
  ])('refuse %s', (_, microBatch, message) => {
    expect(() => checkMicroBatch(microBatch, model, plan)).toThrow(message);
  });

  it.each([undefined, -1, 0.5, 2])('refuse state %d of two', (stateSlot) => {
    const keeping = { ...model, caches: [{ kind: 'recurrent', fields: [] }] } as const;
    const of = (...slots: (number | undefined)[]) => ({
      ...sound,
      slices: slots.map((one) => ({ ...slice, stateSlot: one })),
    });
    checkMicroBatch(of(1, 0), keeping, plan);
    expect(() => checkMicroBatch(of(0, stateSlot), keeping, plan)).toThrow(/a state of its own/);
    expect(() => checkMicroBatch(of(1, 1), keeping, plan)).toThrow(/a state of its own/);
  });

  it.each([-1, 100, 2 ** 31 - 1])('refuse token %i as a target', (value) => {
    expect(() => checkMicroBatch(target(value), model, { ...plan, nll: true })).toThrow(/is to be predicted/);
  });

  it.each([{ nll: true }, { readLogits: true }])('refuse log-probabilities without tokens, %j', (yields) => {
    const asking = { ...target(1), logProbs: true };
    expect(() => checkMicroBatch(asking, model, { ...plan, ...yields })).toThrow(/go with tokens/);
  });

  it('refuse outputs without targets where likelihoods are wanted', () => {
    expect(() => checkMicroBatch(sound, model, { ...plan, nll: true })).toThrow(/every output has a target/);
  });
});

describe('rows of a table', () => {
  it.each([-1, 10, 2 ** 31, Number.NaN])('row %d has no place', (row) => {
    const extent = { fileIndex: 0, fileOffset: 0, sizeBytes: 80 };
    const table = {
      key: 't',
      rowCount: 10,
      columns: 2,
      dtype: 'f32',
      extent,
      rowsFrom: 'token',
      rowOffset: 0,
    } as const;
    expect(rowPlace(table, 9).rowBytes).toBe(8);
    expect(() => rowPlace(table, row)).toThrow(/inside its table/);
  });
});
