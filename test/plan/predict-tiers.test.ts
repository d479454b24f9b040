// Predicted times follow the tiers: what rests on the device costs no link, what is cached in DRAM does.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DTYPE_BYTES, GiB, type PlanOptions, present } from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { shapeModel } from '../../src/engine/shape.js';
import { makePlanReport } from '../../src/report/plan-report.js';

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
const MACHINE = parseProfile(json('configs/machines/h100-x1.json'), 'h100-x1.json');
const { model } = shapeModel(json('configs/models/opt-6.7b.json'), 'opt-6.7b.json', undefined);
const LINK = present(MACHINE.devices.linkBytesPerSecond, 'link');

function decode(plan: Partial<PlanOptions>, batchSize = 8) {
  const report = makePlanReport({
    model,
    offload: 'dram',
    dramBudgetBytes: 128 * GiB,
    plan,
    machine: MACHINE,
    batchSize,
    promptTokens: 512,
    newTokens: 32,
  });
  return { plan: report.plan, pass: present(report.predicted.decode, 'a predicted step') };
}

describe('a decode step', () => {
  const streamed = decode({});

  it('takes what the link takes when everything streams', () => {
    const bytes = streamed.plan.layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);
    expect(streamed.pass.bound).toBe('link');
    expect(streamed.pass.totalMs).toBeGreaterThanOrEqual((bytes / LINK) * 1e3 * 0.999);
    expect(streamed.pass.totalMs).toBeLessThan((bytes / LINK) * 1e3 * 1.03);
  });

  it('takes half of it with half of the layers at rest, and no link with all of them', () => {
    const half = decode({ deviceResident: { layers: 17 } });
    expect(half.plan.layers.filter(({ tier }) => tier === 'gpu')).toHaveLength(17);
    expect(half.pass.totalMs).toBeLessThan(0.53 * streamed.pass.totalMs);
    expect(half.pass.totalMs).toBeGreaterThan(0.49 * streamed.pass.totalMs);
    const all = decode({ deviceResident: 'auto' });
    expect(all.pass.linkMs).toBe(0);
    expect(all.pass.bound).toBe('memory');
  });

  it('takes the link for keys and values as well where they come from DRAM', () => {
    const moved = decode({ kvOffload: true });
    // 512 + 16 tokens are 33 pages of 16 tokens, of 2 · 32 heads · 128 values in each of 32 blocks.
    const kvBytes = 8 * 33 * 16 * 2 * 4096 * 32 * DTYPE_BYTES[moved.plan.activationType];
    expect(moved.pass.linkMs - streamed.pass.linkMs).toBeCloseTo((kvBytes / LINK) * 1e3, 5);
    expect(moved.pass.totalMs).toBeGreaterThan(streamed.pass.totalMs + 0.95 * (kvBytes / LINK) * 1e3);
  });

  it('takes less of it for keys and values in fewer bits', () => {
    // 128 values of a head: a byte each and a scale of 2 bytes; half a byte each and four of them.
    for (const [kvType, headBytes] of [
      ['i8', 128 + 2],
      ['u8', 64 + 8],
    ] as const) {
      const moved = decode({ kvOffload: true, kvType });
      const kvBytes = 8 * 33 * 16 * 2 * 32 * headBytes * 32;
      expect(moved.pass.linkMs - streamed.pass.linkMs, kvType).toBeCloseTo((kvBytes / LINK) * 1e3, 5);
      expect(moved.plan.jobMs).toBeLessThan(decode({ kvOffload: true }).plan.jobMs);
    }
  });
});
