// What several devices would make of a model in each way of sharing it, and which one is taken.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { GiB, present } from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { shapeModel } from '../../src/engine/shape.js';
import { bestWay, possibleWays, weighWays, whyWay } from '../../src/engine/ways.js';
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
  expect(waysText(ways, 64)).toMatch(/pipeline .*taken/);
  const workload = {
    sequences: 1,
    contextTokens: 192,
    promptTokens: 128,
    newTokens: 64,
    output: 'tokens',
  } as const;
  const weighed = weighWays(
    possibleWays(opened, 2),
    () => workload,
    (way, { model }) => planBatch({ ...request, model, plan: way.plan }, 1),
    1,
  );
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
  const weighed = weighWays(
    possibleWays(opened, 2),
    () => workload,
    (way, { model }) => planBatch({ ...request, model, plan: way.plan }, 64),
  );
  expect(bestWay(weighed).way).toBe('streams');
  expect(whyWay(weighed)).toMatch(
    /^--parallel auto is streams, .*tensor would make 0\.\d+ of its texts .*pipeline would make 0\.\d+/,
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
