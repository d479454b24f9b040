// What a plan says of many hosts: exact shares while batches are full, and where more hosts help no further.

import { expect, it } from 'vitest';
import { hostsText, planHosts } from '../../src/report/hosts.js';
import type { PlanReport } from '../../src/report/plan-report.js';

/** Batches of 40 texts take 10 + 9 · 1 s, and loading 19 s. */
const REPORT = {
  predicted: { prefill: { totalMs: 10_000 }, decode: { totalMs: 1000 } },
  batchSize: 20,
  plan: { deviceCount: 2 },
  request: { newTokens: 10, model: {} },
  loadMs: 19_000,
} as unknown as PlanReport;

it('time falls with the hosts until their batches are no longer full', () => {
  const plan = planHosts(REPORT, { hosts: 1000, prompts: 4000 });
  expect(plan).toMatchObject({ texts: 40, loadSeconds: 19, batchSeconds: 19, fullHosts: 100 });
  const seconds = Object.fromEntries(plan?.rows.map((row) => [row.hosts, row.seconds]) ?? []);
  // 100 batches on one host, and loading.
  expect(seconds).toEqual({ 1: 1919, 4: 494, 16: 137.75, 64: 48.6875, 256: 38, 1000: 38 });
  expect(plan?.halfHosts).toBe(101);
  const shareAt = (hosts: number) => planHosts(REPORT, { hosts, prompts: 4000 })?.rows.at(-1)?.shareOfLinear;
  expect(shareAt(1)).toBe(1);
  expect(shareAt(102) ?? 1).toBeLessThan(0.5);
  expect(shareAt(101)).toBeCloseTo(101 / (101 * 2), 6);
});

it('texts are those of the batches that are computed at once, however devices share the work', () => {
  const texts = (report: object) =>
    planHosts({ ...REPORT, ...report } as PlanReport, { hosts: 1, prompts: 4000 })?.texts;
  const together = { newTokens: 10, model: { shares: [{}, {}] } };
  expect(texts({ request: together })).toBe(20);
  expect(texts({ plan: { deviceCount: 4, pipeline: { stages: [], batches: 3 } } })).toBe(60);
});

it('says so in words, and nothing where rates are not known', () => {
  const plan = planHosts(REPORT, { hosts: 4, prompts: 4000 });
  expect(plan && hostsText(plan)).toContain('Beyond 100 hosts batches are no longer full');
  const unknown = { ...REPORT, predicted: { prefill: undefined, decode: undefined } };
  expect(planHosts(unknown, { hosts: 4, prompts: 1 })).toBeUndefined();
});
