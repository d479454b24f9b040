// Every preset is loaded and planned: shapes of models on every described machine, and the table of their parameters.

import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { elementCount, isDense, type ModelSpec, profileText } from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { shapeModel } from '../../src/engine/shape.js';
import { SHAPE_FORMATS } from '../../src/engine/shape-tensors.js';
import type { JsonObject } from '../../src/files/json-file.js';
import { buildArchitecture, tensorList } from '../../src/models/registry.js';
import { makePlanReport } from '../../src/report/plan-report.js';
import { planJson, planText } from '../../src/report/plan-text.js';

const CONFIGS = fileURLToPath(new URL('../../configs', import.meta.url));

function read(path: string): JsonObject {
  return JSON.parse(readFileSync(path, 'utf8'));
}

function names(folder: string): string[] {
  return readdirSync(`${CONFIGS}/${folder}`).map((file) => basename(file, '.json'));
}

const SHAPES = names('models');
const MACHINES = names('machines').map((name) => {
  const path = `${CONFIGS}/machines/${name}.json`;
  return { name, profile: parseProfile(read(path), path) };
});

/** The README's chapter about shapes, up to the next heading. */
const shapesChapter = readFileSync(`${CONFIGS}/README.md`, 'utf8').split(/^## /m)[1] ?? '';

/** Rows of its table: name, layers, hidden, type, parameters, GB. */
const TABLE = new Map(
  [...shapesChapter.matchAll(/^\| (\w[\w.-]*) +\|(.*)\|$/gm)].map((row) => [
    row[1] ?? '',
    (row[2] ?? '').split('|').map((cell) => cell.trim()),
  ]),
);

/** Made at the first call, and given up behind the tests of one shape: those of all together fill the heap. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  afterAll(() => {
    made = undefined;
  });
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function planOf(model: ModelSpec, machine: (typeof MACHINES)[number]['profile']) {
  const plan = { microBatchTokens: 32 };
  return makePlanReport({
    model,
    offload: 'auto',
    dramBudgetBytes: undefined,
    plan,
    machine,
    batchSize: 1,
    promptTokens: 32,
    newTokens: 8,
  });
}

it('the table of shapes names every file, and no other', () => {
  const rows = [...TABLE.keys()].filter((name) => name !== 'name').sort();
  expect(rows).toEqual([...SHAPES].sort());
});

describe.each(SHAPES)('configs/models/%s', (name) => {
  const path = `${CONFIGS}/models/${name}.json`;
  const config = read(path);
  const [, , , parameters, gigabytes] = TABLE.get(name) ?? [];
  // Large ones take long: each is laid out once, as it is published, and planned on one machine.
  const isLarge = Number(parameters?.replaceAll(',', '')) > 20e9;
  const opened = once(() => shapeModel(config, path));
  const plain = once(() => shapeModel(config, path, 'bfloat16'));

  it('has the parameters that its publisher states', () => {
    const all = tensorList(buildArchitecture(config, path));
    const tensors = all.filter(({ inBlock }) => inBlock?.integersBelow === undefined);
    const count = tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
    expect(count.toLocaleString('en-US')).toBe(parameters);
    expect((opened().checkpoint.totalBytes / 1e9).toFixed(2)).toBe(gigabytes);
  });

  it('keeps every byte of its layers in the plan', () => {
    const { checkpoint, model } = opened();
    const weights = [...model.blocks, model.fixed].flatMap((layer) => layer.tensors);
    const bytes = weights.reduce((sum, { extent }) => sum + extent.sizeBytes, 0);
    const tables = model.tables.reduce((sum, { extent }) => sum + extent.sizeBytes, 0);
    const places = model.tables.map(({ extent }) => extent.fileOffset);
    const { bias } = model.head;
    const projection = present(model.head.projection.parts.codes, 'projection');
    const tied = places.includes(projection.extent.fileOffset);
    const head = (tied ? 0 : projection.extent.sizeBytes) + (bias?.extent.sizeBytes ?? 0);
    expect(bytes + tables + head).toBe(checkpoint.totalBytes);
  });

  it.skipIf(isLarge).each(SHAPE_FORMATS)('keeps every byte of matrices that are stored as %s', (format) => {
    const { checkpoint, model } = shapeModel(config, path, format);
    const elements = plain().model.blocks[0]?.matrices.map(({ shape }) => elementCount(shape)) ?? [];
    const block = present(model.blocks[0], 'a block');
    expect(block.matrices.map(({ shape }) => elementCount(shape))).toEqual(elements);
    const stored = model.blocks.flatMap(({ matrices }) =>
      matrices.filter(({ format: own }) => !isDense(own)),
    );
    expect(stored.length).toBeGreaterThan(0);
    // A router chooses with the values that it was made with; in MXFP4 the experts of a mixture alone are stored so.
    const isExpert = ({ key }: { readonly key: string }) => key.includes('experts.');
    const onlyExperts = format === 'mxfp4' && stored.every(isExpert);
    const kept = model.blocks.flatMap(({ matrices }) => matrices.filter(({ format: own }) => isDense(own)));
    const mayStay = kept.every((one) => one.key.endsWith('gate.weight') || (onlyExperts && !isExpert(one)));
    expect(mayStay).toBe(true);
    const parts = stored.flatMap(({ parts: own }) => Object.values(own));
    const saved =
      stored.reduce((sum, { shape }) => sum + 2 * elementCount(shape), 0) -
      parts.reduce((sum, { extent }) => sum + extent.sizeBytes, 0);
    expect(checkpoint.totalBytes + saved).toBe(plain().checkpoint.totalBytes);
  });

  const machines = isLarge ? MACHINES.filter(({ name: own }) => own === 'desktop-24g') : MACHINES;
  it.each(machines)('is planned on $name, or refused with what to change', ({ profile }) => {
    let report: ReturnType<typeof planOf>;
    try {
      report = planOf(opened().model, profile);
    } catch (error) {
      expect(error).toMatchObject({ code: 'DOES_NOT_FIT' });
      expect(String(error)).toMatch(/give --dram_memory|--batch_size|shorten|fewer bits/);
      return;
    }
    const { plan, predicted, largestBatch } = report;
    const dram = plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'dram' ? bytes : 0), 0);
    expect(dram).toBeLessThanOrEqual(plan.dramBudgetBytes);
    expect(largestBatch.batchSize).toBeGreaterThanOrEqual(1);
    expect(predicted.decode?.totalMs).toBeGreaterThan(0);
    expect(predicted.prefill?.totalMs).toBeGreaterThan(predicted.prefill?.stallMs ?? 0);
    const named = { name, architecture: 'a', parameters: 1, weightBytes: 1 };
    expect(planText(named, report)).toContain('Largest batch');
    expect(JSON.parse(planJson(named, report)).layers).toHaveLength(plan.layers.length);
  });
});

describe('configs/machines', () => {
  it.each(MACHINES)('$name is written as it was read', ({ name, profile }) => {
    expect(parseProfile(JSON.parse(profileText(profile)), name)).toEqual(profile);
  });

  it('what describes no machine is refused', () => {
    const good = read(`${CONFIGS}/machines/laptop.json`);
    const broken = (changes: JsonObject) => () => parseProfile({ ...good, ...changes }, 'm.json');
    expect(broken({ dram_bytes: -1 })).toThrow(/m.json describes no machine: dram_bytes: /);
    expect(broken({ dram: 1 })).toThrow(/describes no machine/);
    expect(broken({ devices: { ...(good.devices as JsonObject), kind: 'gpu' } })).toThrow(
      /devices of kind gpu need memory_bytes and link_bytes_per_second/,
    );
  });
});
