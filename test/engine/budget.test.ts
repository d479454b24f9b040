// Budgets that are more than there is: told of, or refused with the numbers.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { GiB, MiB, makePlan, type Plan } from '../../offload/index.js';
import { budgetWarnings, checkMachineHolds, deviceWarning, dramWarning } from '../../src/engine/budget.js';
import { gpuBudgets } from '../../src/engine/plan-for.js';
import { shapeModel } from '../../src/engine/shape.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';

const LLAMA_PATH = fileURLToPath(new URL('../../configs/models/llama-2-7b.json', import.meta.url));
const LLAMA = JSON.parse(readFileSync(LLAMA_PATH, 'utf8')) as Record<string, unknown>;

const MACHINE = { dramAvailableBytes: 10 * GiB, limitBytes: undefined, totalBytes: 16 * GiB };
const GROUP = { dramAvailableBytes: 100 * MiB, limitBytes: 200 * MiB, totalBytes: 200 * MiB };

function planOf(dramBytes: number, deviceBytes = 0): Plan {
  const terms = [
    { tier: 'dram', name: 'weights', bytes: dramBytes, reason: '' },
    { tier: 'gpu', name: 'cache', bytes: deviceBytes, reason: '' },
  ];
  return { terms } as unknown as Plan;
}

const cpu = { deviceBudgetBytes: undefined, device: 'cpu', deviceCount: 1 } as const;

describe('a budget', () => {
  it('that is there is no matter', () => {
    expect(budgetWarnings({ ...cpu, dramBudgetBytes: 10 * GiB }, MACHINE)).toEqual([]);
    expect(budgetWarnings({ ...cpu, dramBudgetBytes: undefined }, MACHINE)).toEqual([]);
    expect(deviceWarning(4 * GiB, 4 * GiB)).toEqual([]);
  });

  it('above what may be taken is told of, with what limits it', () => {
    expect(budgetWarnings({ ...cpu, dramBudgetBytes: 11 * GiB }, MACHINE)).toEqual([
      expect.stringMatching(/^--dram_memory is 11.0 GiB, but 10.0 GiB may be taken on this machine now: /),
    ]);
    expect(budgetWarnings({ ...cpu, dramBudgetBytes: GiB }, GROUP)).toEqual([
      expect.stringMatching(
        /but 100 MiB may be taken by this process now \(its group is limited to 200 MiB\)/,
      ),
    ]);
    expect(deviceWarning(80 * GiB, 70 * GiB)).toEqual([
      '--gpu_memory is 80.0 GiB, but a GPU has 70.0 GiB free, and no more is planned with',
    ]);
    expect(dramWarning(2 * GiB, GiB, 'on laptop.json')[0]).toContain('1.00 GiB may be taken on laptop.json');
  });

  it('of GPUs that are not alike is that of the one with least, which is named where the model does not fit', () => {
    const gpus = [80, 80, 30, 80].map((free, index) => ({ index, freeBytes: free * GiB }));
    const { deviceBudgetBytes, deviceBudgets, deviceBudgetName } = gpuBudgets(gpus, undefined);
    expect(deviceBudgetBytes).toBe(30 * GiB - 256 * MiB);
    expect(deviceBudgets).toEqual([80, 80, 30, 80].map((free) => free * GiB - 256 * MiB));
    expect(deviceBudgetName).toBe('what is free on cuda:2, which has the least, less a margin of 256 MiB');
    expect(gpuBudgets(gpus, 40 * GiB).deviceBudgets).toEqual([40, 40, 29.75, 40].map((some) => some * GiB));
    expect(gpuBudgets(gpus, 20 * GiB)).toMatchObject({
      deviceBudgetName: '--gpu_memory',
      deviceBudgetBytes: 20 * GiB,
    });
    const alike = gpus.slice(0, 2);
    expect(gpuBudgets(alike, undefined).deviceBudgetName).toMatch(/^what is free on the GPU less/);
    const { model } = shapeModel(LLAMA, LLAMA_PATH);
    const workload = {
      sequences: 64,
      contextTokens: 4096,
      promptTokens: 64 * 4000,
      output: 'tokens',
    } as const;
    const small = gpus.map(({ index }) => ({ index, freeBytes: (index === 2 ? 0.3 : 80) * GiB }));
    const plan = () =>
      makePlan(model, workload, {
        ...{ offload: 'dram', dramBudgetBytes: 200 * GiB, dramBudgetName: 'test' },
        ...{ deviceCount: 4, computesInPlace: false, ...gpuBudgets(small, undefined) },
      });
    expect(plan).toThrow(/cuda:2, which has the least/);
  });

  it('is told of by a run, which goes on with a plan that fits', async () => {
    const words = [
      '--name',
      modelFolder('bloom'),
      '--device',
      'cpu',
      '--prompt',
      'x',
      '--max_new_tokens',
      '1',
    ];
    const { status, logs, errors } = await runCli([...words, '--dram_memory', '900TiB']);
    expect([status, errors]).toEqual([0, []]);
    expect(logs.some((line) => line.startsWith('--dram_memory is 900 TiB, but '))).toBe(true);
  });
});

describe('a plan', () => {
  it('that the machine holds may be more than is free', () => {
    expect(() => checkMachineHolds(planOf(15 * GiB), 0, MACHINE)).not.toThrow();
  });

  it('that no machine of this size holds is refused before anything is taken', () => {
    expect(() => checkMachineHolds(planOf(16 * GiB), 0, MACHINE)).toThrow(
      /needs 16\.1 GiB \(DRAM 16\.0 GiB, the program 80\.0 MiB\), but this machine has 16\.0 GiB in all/,
    );
    expect(() => checkMachineHolds(planOf(150 * MiB), 0, GROUP)).toThrow(
      /the control group of this process has 200 MiB in all/,
    );
  });

  it('counts the memory of virtual devices, which is of the same', () => {
    expect(() => checkMachineHolds(planOf(8 * GiB, 2 * GiB), 2, MACHINE)).not.toThrow();
    expect(() => checkMachineHolds(planOf(8 * GiB, 2 * GiB), 4, MACHINE)).toThrow(
      /4 × 2\.00 GiB for --virtual_devices.*lower --virtual_devices or --dram_memory/,
    );
  });
});
