// Steps over layers at rest queue what the step before has queued, and nothing that is of another shape.

import { afterEach, describe, expect, it } from 'vitest';
import { QueueStream } from '../../offload/backends/native-stream.js';
import type { KeptWork } from '../../offload/port/backend.js';
import type { Op } from '../../offload/port/ops.js';
import { KeptPass } from '../../offload/run/kept-pass.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { GREEDY, type SamplingSettings } from '../../src/engine/sampler.js';
import { ALL_DRAM, fixtureFolder, generationWorkload, readGolden } from '../golden/run-model.js';
import { caught, RESTING } from '../simulation/caught.js';

const { keep, repeat, launch } = QueueStream.prototype;
const { fits } = KeptPass.prototype;
afterEach(() => {
  Object.assign(QueueStream.prototype, { keep, repeat, launch });
  KeptPass.prototype.fits = fits;
});

interface Ran {
  readonly texts: readonly (readonly number[])[];
  readonly kept: number;
  readonly repeated: number;
  /** Operations that JavaScript made and handed over. */
  readonly made: number;
}

/** Counted once the tables are there, from when on a step may be queued while the one before it runs. */
async function run(name: string, newTokens: number, sampling: SamplingSettings = GREEDY): Promise<Ran> {
  const count = { kept: 0, repeated: 0, made: 0 };
  QueueStream.prototype.keep = function (this: QueueStream, queue: () => void) {
    count.kept++;
    return keep.call(this, queue);
  };
  QueueStream.prototype.repeat = function (this: QueueStream, work: KeptWork) {
    count.repeated++;
    repeat.call(this, work);
  };
  QueueStream.prototype.launch = function (this: QueueStream, op: Op) {
    count.made++;
    launch.call(this, op);
  };
  const prompts = readGolden(name).input_ids.slice(0, 2);
  const engine = await Engine.open(await openModel(fixtureFolder(name)), {
    ...ALL_DRAM,
    cpu: { virtualDevices: 1 },
    plan: { deviceResident: 'auto' },
    workload: { ...generationWorkload(prompts, newTokens, 2), history: sampling.repetitionPenalty !== 1 },
  });
  try {
    const requests = prompts.map((prompt, index) => ({
      index,
      promptTokens: Int32Array.from(prompt),
      sampling,
    }));
    const options = { batchSize: 2, maxNewTokens: newTokens, stopTokens: new Set<number>() };
    while (!engine.executor.runsAhead) await generate(engine.executor, requests, options);
    Object.assign(count, { kept: 0, repeated: 0, made: 0 });
    const results = await generate(engine.executor, requests, options);
    return { texts: results.map(({ tokens }) => tokens), ...count };
  } finally {
    await engine.close();
  }
}

describe('steps over layers at rest', () => {
  it('are kept once, and from then on JavaScript makes no operation', async () => {
    const few = await run('llama', 8);
    const many = await run('llama', 18);
    expect(many.kept).toBe(few.kept);
    expect(many.repeated).toBe(few.repeated + 10 * few.kept);
    expect(many.made).toBe(few.made);
    expect(many.texts.map((tokens) => tokens.slice(0, 8))).toEqual(few.texts);
  });

  it('are not kept where their tables grow with every token', async () => {
    const { kept } = await run('llama', 8, { ...GREEDY, repetitionPenalty: 1.3 });
    expect(kept).toBe(0);
  });
});

it('canary: passes of another shape that queue what was kept are caught', async () => {
  const options = { ...RESTING, deviceCount: 1, passes: 5 };
  expect((await caught(options, undefined, 15)).share).toBe(0);
  KeptPass.prototype.fits = () => true;
  expect((await caught(options, undefined, 15)).share).toBeGreaterThan(0.2);
});
