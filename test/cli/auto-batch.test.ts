// The batch and the micro-batches that the planner takes: none of those it might have taken is faster by its own reckoning,
// and its reckoning agrees with the prediction for a machine of these rates.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GiB, type Plan, present } from '../../offload/index.js';
import type { PlanOptions } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { findAutoBatch, findLargestBatch, planOnce } from '../../src/engine/largest-batch.js';
import { shapeModel } from '../../src/engine/shape.js';
import { makePlanReport, type PlanRequest } from '../../src/report/plan-report.js';
import { optionsFor } from '../helpers/plan-options.js';

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
const MACHINE = parseProfile(json('configs/machines/h100-x1.json'), 'h100-x1.json');
const [PROMPT, NEW] = [512, 32];

const shapes = new Map<string, PlanRequest['model']>();
function shape(name: string) {
  const model = shapes.get(name) ?? shapeModel(json(`configs/models/${name}.json`), name).model;
  shapes.set(name, model);
  return model;
}

function planner(name: string, gpuGiB: number, dramGiB: number, more: Partial<PlanOptions> = {}) {
  const options = optionsFor('auto', {
    computesInPlace: false,
    cuda: true,
    deviceBudgetBytes: gpuGiB * GiB,
    dramBudgetBytes: dramGiB * GiB,
    ...more,
  });
  return planOnce((sequences: number): Plan => {
    const promptTokens = sequences * PROMPT;
    const workload = { sequences, contextTokens: PROMPT + NEW, promptTokens, newTokens: NEW };
    return makePlan(shape(name), { ...workload, output: 'tokens' }, options);
  });
}

const jobMs = (plan: Plan) => plan.jobMs;

describe('the batch that is chosen', () => {
  it.each([
    {
      what: 'all layers and the cache on the device',
      gpuGiB: 8,
      dramGiB: 16,
      kv: 'gpu',
      reason: 'would have to stream',
    },
    { what: 'much of both on the device', gpuGiB: 3.5, dramGiB: 4, kv: 'gpu', reason: '' },
    { what: 'the cache in DRAM', gpuGiB: 1.5, dramGiB: 12, kv: 'dram', reason: 'on the drive' },
    { what: 'layers on the drive in any case', gpuGiB: 1.2, dramGiB: 1, kv: '', reason: '' },
  ])('makes most tokens a second: $what', ({ gpuGiB, dramGiB, kv, reason }) => {
    const plans = planner('opt-1.3b', gpuGiB, dramGiB);
    const { sequences, plan, refusal } = findAutoBatch(plans);
    const largest = findLargestBatch(plans).sequences;
    const rate = sequences / jobMs(plan);
    for (let other = 1; other <= largest; other = Math.ceil(other * 1.23)) {
      expect(other / jobMs(plans(other)), `batch ${other} beside ${sequences}`).toBeLessThanOrEqual(
        1.01 * rate,
      );
    }
    if (kv !== '') expect(plan.kvBuffers.count > 0).toBe(kv === 'dram');
    expect(refusal).toContain(reason);
  });

  it('keeps layers on the device, though many more texts would fit with keys and values in DRAM', () => {
    const plans = planner('opt-30b', 78, 109);
    const { sequences, plan, refusal } = findAutoBatch(plans);
    expect(plan.layers.every(({ tier }) => tier === 'gpu')).toBe(true);
    expect(refusal).toMatch(/\d+ of 49 layers would have to stream$/);
    expect(findLargestBatch(plans).sequences).toBeGreaterThan(3 * sequences);
  });

  it.each([
    { name: 'llama-0.85b', gib: 0.6, offload: 'auto' },
    { name: 'llama-0.85b', gib: 1.2, offload: 'auto' },
    { name: 'llama-0.85b', gib: 1.2, offload: 'nvme' },
    { name: 'llama-0.85b', gib: 2.5, offload: 'auto' },
    { name: 'llama-2-7b', gib: 8, offload: 'auto' },
  ] as const)(
    'in place is predicted to make about the most tokens a second: %o',
    ({ name, gib, offload }) => {
      const machine = parseProfile(json('configs/machines/laptop.json'), 'laptop.json');
      const request = {
        offload,
        dramBudgetBytes: gib * GiB,
        plan: {},
        machine,
        promptTokens: 128,
        newTokens: 64,
      };
      const rateAt = (batchSize: number | 'auto') => {
        const report = makePlanReport({ ...request, model: shape(name), batchSize });
        const [prefill, decode] = [report.predicted.prefill, report.predicted.decode];
        const ms = present(prefill, 'prefill').totalMs + 63 * present(decode, 'a step').totalMs;
        return { rate: (report.batchSize * 64e3) / ms, largest: report.largestBatch.batchSize };
      };
      const { rate, largest } = rateAt('auto');
      for (let other = 1; other <= largest; other = Math.ceil(other * 1.3)) {
        expect(rateAt(other).rate, `batch ${other}`).toBeLessThanOrEqual(1.2 * rate);
      }
    },
  );

  it('is never larger than it may be', () => {
    expect(findAutoBatch(planner('opt-1.3b', 8, 16), 5)).toMatchObject({ sequences: 5, refusal: undefined });
  });
});

describe('micro-batches', () => {
  const request: PlanRequest = {
    model: shape('opt-30b'),
    offload: 'auto',
    dramBudgetBytes: 109 * GiB,
    plan: { deviceBudgetBytes: 16 * GiB },
    machine: MACHINE,
    batchSize: 'auto',
    promptTokens: PROMPT,
    newTokens: NEW,
  };
  const { plan, predicted, batchSize } = makePlanReport(request);
  const decode = present(predicted.decode, 'a step');
  const totalMs = present(predicted.prefill, 'prefill').totalMs + (NEW - 1) * decode.totalMs;

  it('are large enough that products are fast and copies of keys and values long', () => {
    expect(plan.kvBuffers.count).toBeGreaterThan(0);
    expect(plan.microBatchTokens).toBeGreaterThanOrEqual(512);
    expect(plan.microBatchSequences).toBeGreaterThanOrEqual(8);
    expect(decode.bound).toBe('link');
    expect(decode.computeMs).toBeLessThan(0.25 * decode.linkMs);
    expect((batchSize * NEW * 1e3) / totalMs).toBeGreaterThan(40);
  });

  it('are reckoned as they are predicted for a machine of these rates', () => {
    expect(jobMs(plan)).toBeGreaterThan(0.93 * totalMs);
    expect(jobMs(plan)).toBeLessThan(1.07 * totalMs);
  });

  it.each([
    { microBatchTokens: 512 },
    { microBatchTokens: 2048, microBatchSequences: 2 },
    { microBatchTokens: 4096 },
  ])('of other sizes are predicted to be no faster: %o', (sizes) => {
    const other = makePlanReport({ ...request, batchSize, plan: { ...request.plan, ...sizes } });
    const step = present(other.predicted.decode, 'a step').totalMs;
    const ms = present(other.predicted.prefill, 'prefill').totalMs + (NEW - 1) * step;
    expect(ms).toBeGreaterThan(0.98 * totalMs);
  });
});
