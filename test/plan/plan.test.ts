// Plans keep their promise: what they state is what is allocated, no budget is exceeded, and the smallest plan works.

import { describe, expect, it } from 'vitest';
import { OperatingError, present } from '../../offload/errors.js';
import type { ModelSpec } from '../../offload/model/model.js';
import type { Offload, PlanOptions, Workload } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { Plan } from '../../offload/plan/plan.js';
import { spreadTiers } from '../../offload/plan/spread.js';
import { Executor } from '../../offload/run/executor.js';
import { Trace } from '../../offload/trace.js';
import { MiB } from '../../offload/units.js';
import { dramBytes, optionsFor, PLENTY } from '../helpers/plan-options.js';
import { drawScenario } from '../simulation/scenario.js';
import { CONTEXT_TOKENS, makeToyModel } from '../simulation/toy-model.js';
import { World } from '../simulation/world.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

function drawWorkload(random: Random): Workload {
  return {
    sequences: random.between(1, 9),
    contextTokens: random.between(2, CONTEXT_TOKENS),
    promptTokens: random.between(1, 200),
    output: random.pick(['tokens', 'nll', 'logits']),
  };
}

function refusal(make: () => unknown): OperatingError {
  try {
    make();
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'DOES_NOT_FIT') return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** The smallest budget for which there is a plan. */
function smallestBudget(model: ModelSpec, workload: Workload, options: PlanOptions): number {
  let [refused, works] = [0, PLENTY];
  while (works - refused > 1) {
    const dramBudgetBytes = Math.floor((refused + works) / 2);
    try {
      makePlan(model, workload, { ...options, dramBudgetBytes });
      works = dramBudgetBytes;
    } catch {
      refused = dramBudgetBytes;
    }
  }
  return works;
}

const OFFLOADS: readonly Offload[] = ['auto', 'dram', 'nvme'];

describe('budget', () => {
  it.each(OFFLOADS)(
    '%s: the smallest plan uses its budget to the last byte, and the refusal says so',
    (offload) => {
      for (let seed = 1; seed <= 8; seed++) {
        const random = new Random(seed);
        const { model } = makeToyModel(random, random.between(1, 6));
        const workload = drawWorkload(random);
        const options = optionsFor(offload);
        const smallest = smallestBudget(model, workload, options);
        expect(dramBytes(makePlan(model, workload, { ...options, dramBudgetBytes: smallest }))).toBe(
          smallest,
        );
        const { message } = refusal(() =>
          makePlan(model, workload, { ...options, dramBudgetBytes: smallest - 1 }),
        );
        expect(message).toContain('--dram_memory is ');
        const advised = Number(/give --dram_memory (\d+)MiB or more/.exec(message)?.[1]);
        expect(advised).toBe(Math.ceil(smallest / MiB));
        expect(message.includes('--batch_size')).toBe(workload.sequences > 1);
        expect(message.includes('--nvme_offload_path')).toBe(offload === 'dram');
      }
    },
  );

  it.each(OFFLOADS)('%s: is never exceeded, and more memory never means fewer layers in DRAM', (offload) => {
    for (let seed = 1; seed <= 8; seed++) {
      const random = new Random(seed);
      const { model } = makeToyModel(random, random.between(1, 6));
      const workload = drawWorkload(random);
      const options = optionsFor(offload, {
        microBatchTokens: random.between(1, 16),
        hostWindowLayers: random.between(1, 3),
      });
      const smallest = smallestBudget(model, workload, options);
      let residentBefore = 0;
      for (let extra = 0; extra < 120_000; extra += 5001) {
        const plan = makePlan(model, workload, { ...options, dramBudgetBytes: smallest + extra });
        expect(dramBytes(plan)).toBeLessThanOrEqual(smallest + extra);
        for (const { bytes } of plan.terms) expect(Number.isSafeInteger(bytes) && bytes >= 0).toBe(true);
        const resident = plan.layers.filter(({ tier }) => tier === 'dram').length;
        expect(resident).toBeGreaterThanOrEqual(residentBefore);
        residentBefore = resident;
      }
    }
  });

  it('names its origin when it is refused', () => {
    const { model } = makeToyModel(new Random(1), 2);
    const options = optionsFor('auto', {
      dramBudgetBytes: 1000,
      dramBudgetName: 'the memory of this machine',
    });
    const workload: Workload = { sequences: 1, contextTokens: 8, promptTokens: 4, output: 'tokens' };
    const { message } = refusal(() => makePlan(model, workload, options));
    expect(message).toMatch(/^the memory of this machine is 1000 B, but the smallest plan needs /);
    for (const part of ['key-value cache', 'host buffers', 'embedding rows']) expect(message).toContain(part);
  });
});

describe('what a plan states', () => {
  it('is what is allocated', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = new Random(seed);
      const { model, files, paths } = makeToyModel(random, random.between(1, 6));
      const workload = drawWorkload(random);
      const computesInPlace = random.chance(0.5);
      const deviceCount = computesInPlace ? 1 : random.between(1, 4);
      const apart = { kvOffload: random.chance(0.5), deviceResident: { layers: random.between(0, 4) } };
      const options = optionsFor(random.pick(OFFLOADS), {
        computesInPlace,
        deviceCount,
        kvType: (['f32', 'f16', 'e4m3', 'i8', 'u8'] as const)[seed % 5] ?? 'f32',
        ...(computesInPlace ? {} : apart),
      });
      const dramBudgetBytes = smallestBudget(model, workload, options) + random.between(0, 30_000);
      const plan = makePlan(model, workload, { ...options, dramBudgetBytes });
      const backend = new SimulatedBackend({ seed, deviceCount, computesInPlace, files });
      await backend.until(
        Executor.create({ model, plan, backend, paths, trace: new Trace(false) }),
        'creation',
      );
      expect(backend.allocated.hostBytes, `seed ${seed}`).toBe(dramBytes(plan));
      if (computesInPlace) continue;
      const ownBytes = plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'gpu' ? bytes : 0), 0);
      expect(backend.allocated.deviceBytes, `seed ${seed}`).toBe(ownBytes * deviceCount);
    }
  });

  it('suffices: the smallest plan of a workload computes it', async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const offload = new Random(seed).pick(OFFLOADS);
      const world = new World(seed, {
        computesInPlace: true,
        deviceCount: 1,
        alter: (scenario) => {
          const { toy, workload, plan } = scenario;
          const { microBatchTokens, pageTokens, kvType } = plan;
          const options = optionsFor(offload, { microBatchTokens, pageTokens, kvType });
          const dramBudgetBytes = smallestBudget(toy.model, workload, options);
          return { ...scenario, plan: makePlan(toy.model, workload, { ...options, dramBudgetBytes }) };
        },
      });
      await world.playAll();
    }
  });
});

describe('placement', () => {
  const { model } = makeToyModel(new Random(3), 6);
  const workload: Workload = { sequences: 2, contextTokens: 20, promptTokens: 10, output: 'tokens' };

  it('is all on the drive, or all in DRAM and without host buffers, when asked', () => {
    const streamed = makePlan(model, workload, optionsFor('nvme'));
    expect(streamed.layers.every(({ tier }) => tier === 'nvme')).toBe(true);
    expect(streamed.hostBuffers.count).toBeGreaterThan(1);
    for (const offload of ['dram', 'auto'] as const) {
      const resident = makePlan(model, workload, optionsFor(offload));
      expect(resident.layers.every(({ tier }) => tier === 'dram')).toBe(true);
      expect(resident.hostBuffers.count).toBe(0);
    }
  });

  describe('on devices', () => {
    const apart = (more: Partial<PlanOptions>) => optionsFor('auto', { computesInPlace: false, ...more });
    const gpuBytes = (plan: Plan) =>
      plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'gpu' ? bytes : 0), 0);
    const onDevice = (plan: Plan) => plan.layers.filter(({ tier }) => tier === 'gpu').length;

    it('is everything where it fits: nothing streams, no buffers on the device, no layer in DRAM', () => {
      const plan = makePlan(model, workload, apart({ deviceBudgetBytes: PLENTY }));
      expect(onDevice(plan)).toBe(plan.layers.length);
      expect(plan.deviceBuffers.count).toBe(0);
      expect(plan.hostBuffers.count).toBeGreaterThan(0);
      expect(plan.terms.filter(({ name, tier }) => name === 'resident layers' && tier === 'dram')).toEqual(
        [],
      );
    });

    it('never exceeds the budget; more memory never means fewer layers at rest; the last byte is enough', () => {
      const most = gpuBytes(makePlan(model, workload, apart({ deviceBudgetBytes: PLENTY })));
      const counts: number[] = [];
      for (let deviceBudgetBytes = 0; deviceBudgetBytes <= most; deviceBudgetBytes += Math.ceil(most / 97)) {
        const options = apart({ deviceBudgetBytes, microBatchTokens: 8 });
        let plan: Plan;
        try {
          plan = makePlan(model, workload, options);
        } catch {
          expect(counts).toEqual([]);
          continue;
        }
        expect(gpuBytes(plan)).toBeLessThanOrEqual(deviceBudgetBytes);
        // Keys and values that leave for DRAM make room for layers.
        if (plan.kvBuffers.count > 0) continue;
        counts.push(onDevice(plan));
        const exact = makePlan(model, workload, { ...options, deviceBudgetBytes: gpuBytes(plan) });
        expect(onDevice(exact)).toBe(onDevice(plan));
      }
      expect(counts).toEqual([...counts].sort((a, b) => a - b));
      expect(new Set(counts).size).toBeGreaterThan(3);
    });

    it('is nothing with an offload asked for, unless layers or bytes are asked for as well', () => {
      for (const offload of ['dram', 'nvme'] as const) {
        const budget = { ...apart({ deviceBudgetBytes: PLENTY }), offload };
        expect(onDevice(makePlan(model, workload, budget))).toBe(0);
        for (let layers = 0; layers <= 6; layers++) {
          const plan = makePlan(model, workload, { ...budget, deviceResident: { layers } });
          expect(onDevice(plan)).toBe(layers);
          expect(plan.layers.filter(({ tier }) => tier === offload)).toHaveLength(
            plan.layers.length - layers,
          );
        }
        const bytes = Math.max(
          ...makePlan(model, workload, budget).layers.map((l) => l.layout.device.sizeBytes),
        );
        const some = makePlan(model, workload, { ...budget, deviceResident: { bytes } });
        expect(onDevice(some)).toBeGreaterThan(0);
        const resting = some.layers.filter(({ tier }) => tier === 'gpu');
        expect(resting.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0)).toBeLessThanOrEqual(
          bytes,
        );
      }
    });

    it('is refused with the numbers when more layers are asked for than fit, or where the device is the CPU', () => {
      const tight = gpuBytes(
        makePlan(
          model,
          workload,
          apart({ deviceResident: { layers: 2 }, kvOffload: true, microBatchTokens: 4 }),
        ),
      );
      const asked = (layers: number) =>
        apart({
          deviceResident: { layers },
          microBatchTokens: 4,
          deviceBudgetBytes: tight,
          deviceBudgetName: '--gpu_memory',
        });
      expect(onDevice(makePlan(model, workload, asked(1)))).toBe(1);
      const { message } = refusal(() => makePlan(model, workload, asked(5)));
      expect(message).toMatch(/^--gpu_memory is .* resident layers .* lower --gpu_resident$/);
      expect(() => makePlan(model, workload, optionsFor('auto', { deviceResident: 'auto' }))).toThrow(
        '--gpu_resident is for a GPU',
      );
    });
  });

  describe('of keys and values', () => {
    const apart = (more: Partial<PlanOptions>) => optionsFor('dram', { computesInPlace: false, ...more });
    const bytes = (plan: Plan, tier: string, name: string) =>
      plan.terms.reduce((sum, term) => sum + (term.tier === tier && term.name === name ? term.bytes : 0), 0);

    it('is the device where it has room, DRAM when asked, and DRAM in any case in place', () => {
      const resting = makePlan(model, workload, apart({}));
      const moved = makePlan(model, workload, apart({ kvOffload: true, deviceCount: 3 }));
      expect(resting.kvBuffers.count).toBe(0);
      expect(bytes(resting, 'dram', 'key-value cache')).toBe(0);
      expect(moved.kvBuffers.count).toBe(3);
      expect(bytes(moved, 'gpu', 'key-value cache')).toBe(0);
      expect(bytes(moved, 'dram', 'key-value cache')).toBe(3 * bytes(resting, 'gpu', 'key-value cache'));
      const inPlace = makePlan(model, workload, optionsFor('dram', { kvOffload: true }));
      expect(inPlace).toEqual(makePlan(model, workload, optionsFor('dram')));
    });

    it('leaves the device when it cannot hold them, with micro-batches as small as the buffers must be', () => {
      const many: Workload = { sequences: 64, contextTokens: 40, promptTokens: 64 * 20, output: 'tokens' };
      const held = makePlan(model, many, apart({ microBatchTokens: 64 }));
      const cacheBytes = bytes(held, 'gpu', 'key-value cache');
      const others = held.terms.reduce(
        (sum, { tier, bytes: b }) => sum + (tier === 'gpu' ? b : 0),
        -cacheBytes,
      );
      const sequences = [0.9, 0.5, 0.25, 0.05].map((share) => {
        const plan = makePlan(
          model,
          many,
          apart({ deviceBudgetBytes: others + Math.floor(share * cacheBytes), microBatchTokens: 64 }),
        );
        expect(plan.kvBuffers.count).toBe(3);
        expect(plan.kvBuffers.pages).toBe(3 * plan.microBatchSequences);
        const gpu = plan.terms.reduce((sum, { tier, bytes: b }) => sum + (tier === 'gpu' ? b : 0), 0);
        expect(gpu).toBeLessThanOrEqual(others + share * cacheBytes);
        return plan.microBatchSequences;
      });
      expect(sequences).toEqual([...sequences].sort((a, b) => b - a));
      expect(sequences[0]).toBeGreaterThan(present(sequences.at(-1), 'last'));
    });
  });

  it('takes the windows it is given, and needs no device buffers in place', () => {
    const apart = optionsFor('nvme', { computesInPlace: false, hostWindowLayers: 3, deviceWindowLayers: 5 });
    const plan = makePlan(model, workload, apart);
    expect([plan.hostBuffers.count, plan.deviceBuffers.count]).toEqual([3, 5]);
    expect(makePlan(model, workload, optionsFor('nvme')).deviceBuffers.count).toBe(0);
  });

  it('has buffers that hold every layer, and pieces of the head that make every column once', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const { toy, plan } = drawScenario(seed);
      let column = 0;
      for (const { layout, kind, firstColumn, columns } of plan.layers) {
        expect(layout.host.sizeBytes).toBeLessThanOrEqual(plan.hostBuffers.sizeBytes);
        if (plan.deviceBuffers.count > 0) {
          expect(layout.device.sizeBytes).toBeLessThanOrEqual(plan.deviceBuffers.sizeBytes);
        }
        if (kind === 'block') continue;
        expect(firstColumn).toBe(column);
        column += columns;
      }
      expect(column).toBe(toy.model.vocabSize);
      expect(plan.layers.filter(({ kind }) => kind === 'block')).toHaveLength(toy.model.blocks.length);
    }
  });

  it('spreads the layers that rest in DRAM evenly between those that stream', () => {
    for (let layers = 1; layers <= 25; layers++) {
      for (let resident = 0; resident <= layers; resident++) {
        const tiers = spreadTiers(layers, resident);
        expect(tiers.filter(Boolean)).toHaveLength(resident);
        // Any two stretches of the same length differ by one at most.
        for (const length of [2, 3, 7]) {
          const counts = tiers
            .slice(0, Math.max(0, layers - length + 1))
            .map((_, start) => tiers.slice(start, start + length).filter(Boolean).length);
          if (counts.length > 0) expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
        }
      }
    }
  });
});
