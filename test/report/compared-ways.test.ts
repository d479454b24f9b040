// What several devices would make of a model in each way of sharing it, and which one is taken.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { GiB, makeTransfer, present, type Transfer } from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { shapeModel } from '../../src/engine/shape.js';
import {
  bestWay,
  betweenOf,
  describedBetween,
  possibleWays,
  saidOf,
  sumsMs,
  weighWays,
  whyWay,
} from '../../src/engine/ways.js';
import { bestCompared, compareWays, waysJson, waysText } from '../../src/report/compared-ways.js';
import { planBatch } from '../../src/report/plan-report.js';

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
const MACHINE = parseProfile(json('configs/machines/h100-x2.json'), 'h100-x2.json');

function compared(shape: string, batchSize: number, peerBytesPerSecond = MACHINE.devices.peerBytesPerSecond) {
  const path = `configs/models/${shape}.json`;
  const opened = shapeModel(json(path), path, undefined);
  const devices = { ...MACHINE.devices, peerBytesPerSecond };
  const request = {
    model: opened.model,
    offload: 'auto' as const,
    dramBudgetBytes: 250 * GiB,
    plan: {},
    machine: { ...MACHINE, devices },
    batchSize,
    promptTokens: 128,
    newTokens: 64,
  };
  return { opened, request, ways: compareWays(request, possibleWays(opened, 2), batchSize) };
}

it('a model that fits two devices together is not streamed; one text alone has both compute each layer', () => {
  const { ways, opened, request } = compared('llama-3-70b', 64);
  const [streams, , , pipeline] = ways;
  expect(present(pipeline, 'a way').tokensPerSecond).toBeGreaterThan(
    2 * present(streams, 'a way').tokensPerSecond,
  );
  expect(waysText(ways, 64, describedBetween(request.machine.devices))).toMatch(/pipeline .*taken/);
  const workload = {
    sequences: 1,
    contextTokens: 192,
    promptTokens: 128,
    newTokens: 64,
    output: 'tokens',
  } as const;
  const weighed = weighWays(possibleWays(opened, 2), {
    workloadOf: () => workload,
    planOf: (way, { model }) => planBatch({ ...request, model, plan: way.plan }, 1),
    texts: 1,
  });
  expect(bestWay(weighed).way).toBe('tensor');
});

it('a model that fits each device is best computed by each alone, with enough texts', () => {
  const { ways, opened, request } = compared('llama-3-8b', 64);
  expect(bestCompared(ways).possible.way).toBe('streams');
  const workload = {
    sequences: 64,
    contextTokens: 192,
    promptTokens: 64 * 128,
    newTokens: 64,
    output: 'tokens',
  } as const;
  const weighed = weighWays(possibleWays(opened, 2), {
    workloadOf: () => workload,
    planOf: (way, { model }) => planBatch({ ...request, model, plan: way.plan }, 64),
  });
  expect(bestWay(weighed).way).toBe('streams');
  expect(whyWay(weighed)).toMatch(
    /^--parallel auto is streams, .*tensor would make 0\.\d+ of its texts .*pipeline would make 0\.\d+/,
  );
});

it('sums are counted at what was measured between devices, and whoever assumes says so', () => {
  const rate = (change: Partial<Transfer>) => betweenOf({ ...makeTransfer('none', 'given'), ...change });
  expect(saidOf(rate({}))).toMatch(/counted at 350\.00 GB\/s as is usual between GPUs/);
  expect(saidOf(rate({ peerBytesPerSecond: 120e9 }))).toMatch(/120\.00 GB\/s as measured/);
  expect(saidOf(rate({ throughHost: true }))).toMatch(/54\.50 GB\/s .*through the host/);
  const described = { ...MACHINE.devices, linkBytesPerSecond: 40e9 };
  expect(saidOf(describedBetween({ ...described, peerBytesPerSecond: 90e9 }))).toMatch(
    /90\S* GB\/s as described/,
  );
  expect(saidOf(describedBetween({ ...described, peerBytesPerSecond: null }))).toMatch(
    /40\S* GB\/s through the host/,
  );
  // Without peer access sums of a long prompt take longer in runs as in plans.
  const { opened } = compared('llama-3-8b', 1);
  const tensor = present(possibleWays(opened, 2)[1]?.opened, 'a model that two devices share');
  expect(sumsMs(tensor.model, 4096, rate({ throughHost: true }))).toBeGreaterThan(
    4 * sumsMs(tensor.model, 4096, rate({})),
  );
});

it('where devices cannot share a layer, the reason stands in place of a rate', () => {
  const { ways } = compared('falcon-40b', 8);
  for (const { refusal, plan } of ways) expect(refusal === undefined).toBe(plan !== undefined);
  const rows = waysJson(ways);
  expect(rows.filter(({ isTaken }) => isTaken)).toHaveLength(1);
  const three = possibleWays(shapeModel(json('configs/models/llama-3-8b.json'), 'x', undefined), 3);
  expect(three.find(({ way }) => way === 'tensor')?.refusal).toMatch(/3/);
});
