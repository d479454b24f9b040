// Programs on a GPU; skipped, and counted, without one.

import { describe, expect, it } from 'vitest';
import { cudaStatus, present } from '../../offload/index.js';
import { open } from '../../src/index.js';
import { goldenOf, modelFolder } from '../helpers/fixtures.js';

const { problem, devices } = cudaStatus();

describe.skipIf(problem !== '')('on a GPU', () => {
  it('is where a model is opened by default, and its texts are the same alone and among others', async () => {
    const { input_ids: ids } = goldenOf('llama');
    const options = { contextTokens: 128, gpuMemory: '2GiB', dramMemory: '2GiB' };
    const engine = await open(modelFolder('llama'), options);
    expect(engine.info).toMatchObject({ device: 'cuda', deviceCount: 1 });
    const asked = { maxNewTokens: 8, logProbs: true, stopTokens: [] };
    const make = (tokens: readonly number[]) => engine.generate({ tokens }, asked).result;
    const alone = await make(present(ids[0], 'prompt'));
    expect(alone.tokens).toHaveLength(8);
    for (const logProb of alone.logProbs ?? []) expect(logProb).toBeLessThan(0);
    const made = await Promise.all(
      Array.from({ length: 20 }, (_, index) => make(present(ids[index % 4], 'prompt'))),
    );
    expect(made.map(({ tokens }) => tokens.length)).toEqual(Array(20).fill(8));
    await engine.close();
    const streamed = await open(modelFolder('llama'), { ...options, offload: 'nvme', kvOffload: true });
    expect((await streamed.generate({ tokens: ids[0] ?? [] }, asked).result).tokens).toEqual(alone.tokens);
    await streamed.close();
  });

  it('scores', async () => {
    const { nll, nll_ids: tokens } = goldenOf('llama');
    const engine = await open(modelFolder('llama'), { task: 'score', device: 'cuda' });
    expect(Math.abs((await engine.score({ tokens })).nll - nll) / nll).toBeLessThan(0.01);
    await engine.close();
  });

  it('refuses more GPUs than there are, and more memory than they have', async () => {
    const tooMany = open(modelFolder('llama'), { numGpus: devices.length + 1 });
    await expect(tooMany).rejects.toMatchObject({
      code: 'NO_DEVICE',
      message: expect.stringMatching(/^numGpus is/),
    });
    await expect(open(modelFolder('llama'), { gpuMemory: 1 })).rejects.toMatchObject({
      code: 'DOES_NOT_FIT',
      message: expect.not.stringMatching(/--/),
    });
  });
});
