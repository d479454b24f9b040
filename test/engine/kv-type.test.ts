// Keys and values in fewer bits inside a living engine: sequences that are computed again, and values that no type holds.

import { describe, expect, it } from 'vitest';
import { GiB, type KvDType, type Workload } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { modelFolder } from '../helpers/fixtures.js';
import { spoilCheckpoint } from '../helpers/spoilt-checkpoint.js';
import { tempFolder } from '../helpers/temp-folder.js';

const CONTEXT = 64;
const NEW_TOKENS = 24;
/** The same beginning, so that pages are shared, and other ends. */
const PROMPTS = Array.from({ length: 6 }, (_, index) => [
  ...Array.from({ length: 17 }, (__, i) => (i * 31) % 380),
  index + 5,
  3 * index,
]);

async function texts(folder: string, kvType: KvDType, more: Partial<Workload> = {}, kvOffload = false) {
  const promptTokens = PROMPTS.reduce((sum, { length }) => sum + length, 0);
  const workload = { sequences: 6, contextTokens: CONTEXT, promptTokens, output: 'tokens', ...more } as const;
  const engine = await Engine.open(await openModel(folder), {
    offload: 'dram',
    dramBudgetBytes: GiB,
    workload,
    cpu: kvOffload ? { virtualDevices: 1 } : {},
    plan: { kvType, kvOffload, pageTokens: 4 },
  });
  try {
    const requests = PROMPTS.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
    return await generate(engine.executor, requests, {
      batchSize: workload.sequences,
      maxNewTokens: NEW_TOKENS,
      stopTokens: new Set(),
    });
  } finally {
    await engine.close();
  }
}

describe.each(['e4m3', 'i8', 'u8'] as const)('keys and values in %s', (kvType) => {
  it('sequences that give their pages away, and are computed again, go on as they would have', async () => {
    const folder = modelFolder('llama');
    const expected = await texts(folder, kvType);
    expect(expected.map(({ tokens }) => tokens.length)).toEqual(PROMPTS.map(() => NEW_TOKENS));
    expect(await texts(folder, kvType, { cachedTokens: 80 })).toEqual(expected);
    expect(await texts(folder, kvType, { cachedTokens: 80 }, true)).toEqual(expected);
  });
});

describe('a key that float16 does not hold', () => {
  const folder = tempFolder();
  const place = { tensor: 'model.layers.1.self_attn.k_proj.weight', index: 3, value: 2 ** 24 };
  spoilCheckpoint(folder, 'llama', [place]);

  it('ends the text, and the error names the option', async () => {
    const results = await texts(folder, 'f16');
    for (const { problem } of results) {
      expect(problem).toMatchObject({ code: 'NOT_FINITE' });
      expect(problem?.message).toMatch(
        /in block 1 .*the float16 of --kv_dtype \(then give bfloat16 or auto\)/,
      );
    }
  });

  it.each(['f32', 'bf16', 'e4m3', 'i8', 'u8'] as const)('%s holds it', async (kvType) => {
    const results = await texts(folder, kvType);
    expect(results.map(({ problem }) => problem)).toEqual(PROMPTS.map(() => undefined));
  });
});
