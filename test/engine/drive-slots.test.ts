// Experts that are read when they are chosen: a read that fails, a file that is cut short and an end in the middle give one error, and no hang.

import { cpSync, truncateSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { CpuBackendOptions } from '../../offload/backends/cpu.js';
import { OperatingError, present } from '../../offload/errors.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { fixtureFolder, generationWorkload } from '../golden/run-model.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NEW_TOKENS = 12;
/** One token, so that the first pass chooses as well. */
const PROMPTS = [[5]];

type Placing = Pick<EngineOptions, 'offload' | 'plan'> & { readonly virtualDevices?: number };

/** Read into slots that the CPU computes on, or into some that a device with memory of its own changes places with. */
const PLACINGS: readonly (readonly [string, Placing])[] = [
  ['where they are computed', { offload: 'auto', plan: { expertSlots: 4 } }],
  ['for a device', { offload: 'nvme', plan: { expertSlots: 4, dramSlots: 5 }, virtualDevices: 1 }],
];

async function open(folder: string, placing: Placing, io: CpuBackendOptions['io'] = {}) {
  const { offload, plan, virtualDevices } = placing;
  return Engine.open(await openModel(folder), {
    offload,
    dramBudgetBytes: 2 ** 30,
    plan: plan ?? {},
    cpu: { io, ...(virtualDevices ? { virtualDevices } : {}) },
    workload: generationWorkload(PROMPTS, NEW_TOKENS, 1),
  });
}

function run(engine: Engine, onPass: () => void = () => undefined) {
  const requests = PROMPTS.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
  const options = { batchSize: 1, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>(), onPass };
  return generate(engine.executor, requests, options);
}

async function failureOf(promise: Promise<unknown>): Promise<OperatingError | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    if (error instanceof OperatingError) return error;
    throw error;
  }
}

/** The reads of all experts. */
function readsOf({ plan }: Engine) {
  return plan.layers.flatMap(({ experts }) =>
    present(experts?.files ?? { experts: [] }, 'files').experts.flatMap(({ runs }) => runs),
  );
}

describe.each(PLACINGS)('experts that are read when they are chosen, %s', (_, placing) => {
  const folder = fixtureFolder('mixtral');

  it.each(['io_uring', 'threads'] as const)(
    'a read of %s that fails is told with file and offset',
    async (engine) => {
      const healthy = await open(folder, placing);
      const expected = await run(healthy);
      const offsets = readsOf(healthy).flatMap(({ fileOffset }, read) => (read % 3 === 0 ? fileOffset : []));
      await healthy.close();
      let failures = 0;
      for (const offset of offsets) {
        const errorAtFileOffset = { offset, errno: constants.errno.EIO };
        const failing = open(folder, placing, { engine, faults: { errorAtFileOffset } });
        // Files have other things at that offset as well.
        const opening = await failureOf(failing);
        const running = opening ? undefined : run(await failing);
        const failure = opening ?? (await failureOf(present(running, 'a run')));
        if (!opening) await (await failing).close();
        if (!failure) {
          expect(await running).toEqual(expected);
          continue;
        }
        if (running) failures++;
        expect(failure.code).toBe('READ_FAILED');
        expect(failure.message).toMatch(
          /model-0000\d-of-00005\.safetensors cannot be read at offset \d+ \(EIO\)/,
        );
      }
      expect(failures).toBeGreaterThan(0);
    },
  );

  it('reads that end early are read on', async () => {
    const healthy = await open(folder, placing);
    const expected = await run(healthy);
    await healthy.close();
    const short = await open(folder, placing, { faults: { shortEveryN: 2, eagainEveryN: 3 } });
    expect(await run(short)).toEqual(expected);
    await short.close();
  });

  it('a file that is cut short meanwhile has changed', async () => {
    const copy = join(tempFolder(), 'model');
    cpSync(folder, copy, { recursive: true });
    const engine = await open(copy, placing);
    const cut = () => {
      for (let file = 1; file <= 5; file++)
        truncateSync(join(copy, `model-0000${file}-of-00005.safetensors`), 4096);
    };
    let passes = 0;
    const failure = await failureOf(
      run(engine, () => {
        if (++passes === 2) cut();
      }),
    );
    expect(present(failure, 'a failure').code).toBe('FILE_CHANGED');
    await engine.close();
  });

  it('a close in the middle ends it at once', async () => {
    for (let wait = 0; wait < 6; wait++) {
      const engine = await open(folder, placing);
      let passes = 0;
      let closing: Promise<void> | undefined;
      const failure = await failureOf(
        run(engine, () => {
          if (++passes === wait) closing = engine.close();
        }),
      );
      if (wait > 0) expect(present(failure, 'a failure').code).toBe('INTERRUPTED');
      await (closing ?? engine.close());
    }
  });
});
