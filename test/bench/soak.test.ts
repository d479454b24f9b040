// The soak's own tools on the CPU: rounds end as they must, and growth of every kind is seen. bench/gpu/soak.ts runs long.

import { closeSync, openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { drawCase, type SoakDevices } from '../../bench/gpu/soak-case.js';
import { openSoakModel, Soak } from '../../bench/gpu/soak-run.js';
import { growthOf, LIMITS, UsageLog, UsageProbe, type UsageSample } from '../../bench/gpu/soak-usage.js';
import { native } from '../../offload/port/native.js';
import { MiB } from '../../offload/units.js';
import { modelFolder } from '../helpers/fixtures.js';

const NAMES = ['bloom-6-heads', 'gpt2', 'llama-biases', 'mixtral'];
const ROUNDS = 60;

describe.each<SoakDevices>([
  { kind: 'cpu', count: 0 },
  { kind: 'cpu', count: 2 },
])('rounds on $count devices with memory of their own', (devices) => {
  it('end as they must, and every kind of round occurs', async () => {
    const models = await Promise.all(NAMES.map((name) => openSoakModel(name, modelFolder(name))));
    const soak = new Soak(devices, new Map(models.map((model) => [model.name, model])));
    const events = new Set<string>();
    for (let iteration = 0; iteration < ROUNDS; iteration++) {
      const one = drawCase(5, iteration, NAMES, devices);
      await soak.run(one);
      events.add(one.event);
    }
    expect(events.size).toBe(7);
    expect(soak.compared).toBeGreaterThan(ROUNDS);
  });
});

describe('what a process holds', () => {
  it('shows memory, files and threads as they come and go', async () => {
    const probe = await UsageProbe.open([], 0);
    const before = await probe.measure();
    // So much that what else comes and goes meanwhile does not matter.
    const memory = new (native().NativeMemory)(512 * MiB, false);
    memory.populate(1);
    const file = openSync(modelFolder('gpt2/config.json'), 'r');
    const stream = native().createStream('held');
    const held = await probe.measure();
    expect(held.rss - before.rss).toBeGreaterThan(400 * MiB);
    expect(held.files - before.files).toBe(1);
    expect(held.threads - before.threads).toBe(1);
    expect(held.device).toBeUndefined();
    stream.close();
    closeSync(file);
    memory.free();
    const after = await probe.measure();
    expect([after.files, after.threads]).toEqual([before.files, before.threads]);
    expect(held.rss - after.rss).toBeGreaterThan(400 * MiB);
  });

  it('grew when the late median lies above the early one by more than is tolerated', () => {
    const flat = { rss: 1e9, anonymous: 1e9, locked: 0, heap: 1e8, files: 20, threads: 12, mappings: 500 };
    const samples = Array.from(
      { length: 101 },
      (_, index): UsageSample => ({ ...flat, at: index / 100, ...(index % 3 === 0 ? { device: 5e8 } : {}) }),
    );
    expect(growthOf(samples).filter(({ grew }) => grew)).toEqual([]);
    for (const { of, tolerance } of LIMITS) {
      // Steadily, from the first round on; what is taken while warming up does not count.
      const total = (tolerance + 1) * 3;
      const leaking = samples.map((one) => ({ ...one, [of]: (one[of] ?? 0) + Math.ceil(one.at * total) }));
      const grown = growthOf(leaking).filter(({ grew }) => grew);
      expect(grown.map((one) => one.of)).toEqual([of]);
      const warming = samples.map((one) => ({
        ...one,
        [of]: (one[of] ?? 0) + Math.min(one.at, 0.3) * total,
      }));
      expect(growthOf(warming).filter(({ grew }) => grew)).toEqual([]);
    }
  });

  it('is kept as it was measured, whether the driver was asked or not', () => {
    const samples = Array.from({ length: 3000 }, (_, index): UsageSample => {
      const usage = { rss: index, anonymous: 2, locked: 0, heap: 3, files: 4, threads: 5, mappings: 6 };
      return { ...usage, at: index / 3000, ...(index % 7 === 0 ? { device: 2 ** 37 + index } : {}) };
    });
    const log = new UsageLog();
    for (const sample of samples) log.add(sample);
    expect(log.samples()).toEqual(samples);
  });

  it('cannot be judged from a run without a late stretch', () => {
    const samples = [0.1, 0.4, 0.45].map((at) => ({
      ...{ rss: 1, anonymous: 1, locked: 0, heap: 1, files: 1, threads: 1, mappings: 1 },
      at,
    }));
    expect(() => growthOf(samples)).toThrow('too short');
  });
});
