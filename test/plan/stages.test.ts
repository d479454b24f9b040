// Stages of a pipeline are cut by what their layers take, and by what each device holds.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GiB, type Plan, type PlanOptions, present } from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { shapeModel } from '../../src/engine/shape.js';
import { planBatch, predictDecode } from '../../src/report/plan-report.js';

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
const MACHINE = parseProfile(json('configs/machines/h100-x2.json'), 'h100-x2.json');
const { model } = shapeModel(json('configs/models/llama-3-70b.json'), 'llama-3-70b.json', undefined);

function report(plan: Partial<PlanOptions>, count = 2, memoryGiB = 78) {
  const devices = { ...MACHINE.devices, count, memoryBytes: memoryGiB * GiB };
  const request = {
    model,
    offload: 'auto' as const,
    dramBudgetBytes: 250 * GiB,
    plan,
    machine: { ...MACHINE, devices },
    batchSize: 32,
    promptTokens: 512,
    newTokens: 64,
  };
  const planned = planBatch(request, 32);
  return { plan: planned, predicted: { decode: predictDecode(request, planned, 32) } };
}

function ofStages({ pipeline, layers }: Plan, of: (layer: Plan['layers'][number]) => number): number[] {
  return present(pipeline, 'a pipeline').stages.map(({ first, end }) =>
    layers.slice(first, end).reduce((sum, layer) => sum + of(layer), 0),
  );
}
const bytes = ({ layout }: Plan['layers'][number]) => layout.device.sizeBytes;
const resting = (layer: Plan['layers'][number]) => (layer.tier === 'gpu' ? bytes(layer) : 0);

describe('a model that fits two devices together', () => {
  const { plan, predicted } = report({ pipeline: true });

  it('rests on both, half on each', () => {
    expect(plan.layers.every(({ tier }) => tier === 'gpu')).toBe(true);
    const [first = 0, second = 0] = ofStages(plan, bytes);
    expect(Math.abs(first - second)).toBeLessThan(0.05 * (first + second));
  });

  it('takes for a step of both batches about what one device would take to read all of it twice', () => {
    const decode = present(predicted.decode, 'a step');
    const all = plan.layers.reduce((sum, layer) => sum + bytes(layer), 0);
    const readMs = (all / MACHINE.compute.memoryBytesPerSecond) * 1e3;
    expect(decode.totalMs).toBeGreaterThan(readMs);
    expect(decode.totalMs).toBeLessThan(1.35 * readMs);
    expect(decode.linkMs).toBe(0);
  });
});

it('a device with less memory has fewer layers, and none holds more than it has', () => {
  const deviceBudgets = [60 * GiB, 95 * GiB];
  const { plan } = report({ pipeline: true, deviceBudgets, deviceBudgetBytes: 60 * GiB });
  expect(plan.layers.every(({ tier }) => tier === 'gpu')).toBe(true);
  const held = ofStages(plan, resting);
  for (const [device, some] of held.entries())
    expect(some).toBeLessThan(present(deviceBudgets[device], 'a budget'));
  expect(held[0]).toBeLessThan(0.8 * present(held[1], 'a stage'));
});

it('what does not fit streams, each layer over the link of its own device', () => {
  const { plan, predicted } = report({ pipeline: true }, 2, 50);
  const [first = 0, second = 0] = ofStages(plan, (layer) => bytes(layer) - resting(layer));
  expect(Math.min(first, second)).toBeGreaterThan(0);
  const slowest = Math.max(first, second) / present(MACHINE.devices.linkBytesPerSecond, 'a link');
  const { linkMs } = present(predicted.decode, 'a step');
  // Once for each of two batches; keys and values may come the same way.
  expect(linkMs).toBeGreaterThan(2 * slowest * 1e3 * 0.999);
  expect(linkMs).toBeLessThan(2 * slowest * 1e3 * 1.25);
});

it('eight devices have eight stages, and 256 of them as many as there are blocks, and one for the head', () => {
  expect(report({ pipeline: true }, 8).plan.pipeline?.stages).toHaveLength(8);
  expect(report({ pipeline: true }, 256).plan.pipeline?.stages).toHaveLength(model.blocks.length + 1);
});

it('slots for experts and rows of the host are refused beside it', () => {
  expect(() => report({ pipeline: true, expertSlots: 8 })).toThrow(
    /--expert_slots is given: leave one of them out/,
  );
});
