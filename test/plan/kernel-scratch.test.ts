// Bounds of what GPU kernels allocate for themselves, against the sizes that their sources compute (native/cuda).

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { cudaCosts } from '../../offload/plan/device-costs.js';
import { kernelScratch } from '../../offload/plan/kernel-scratch.js';
import { MiB } from '../../offload/units.js';
import { shapeModel } from '../../src/engine/shape.js';

function model(name: string) {
  const path = `configs/models/${name}.json`;
  return shapeModel(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>, path, undefined).model;
}

it('holds inputs of the widest product, and parts of attention over the longest context', () => {
  const opt = model('opt-6.7b');
  const scratch = kernelScratch(opt, { tokens: 2048, contextTokens: 2048, logitRows: 8, drawnRows: 0 });
  // fc2 takes 16384 inputs; 32 heads of 128 values: 15 tokens make 480 blocks, 8 splits each.
  expect(scratch.inputsBytes).toBe(2 * 2048 * 16384 + 4 * 16384);
  expect(scratch.partialsBytes).toBeGreaterThanOrEqual(15 * 32 * 8 * (2 + 128) * 4);
  expect(scratch.partialsBytes).toBeLessThan(512 * 8 * (2 + 128) * 4);
  expect(scratch.bytes).toBe(32 * MiB + scratch.inputsBytes + scratch.partialsBytes);
});

it('holds inputs of a head with more rows than a micro-batch has tokens, and logits that are drawn from', () => {
  const opt = model('opt-6.7b');
  const few = { tokens: 4, contextTokens: 100, logitRows: 1000, drawnRows: 4 };
  const scratch = kernelScratch(opt, few);
  expect(scratch.inputsBytes).toBe(4 * 1000 * 4096 + 4 * 16384);
  // No context is cut, so that the logits of four rows are the larger need.
  expect(scratch.partialsBytes).toBe(4 * 4 * opt.vocabSize);
});

it('holds both halves of the choices of a mixture, and the choices by expert', () => {
  const tokens = 2048;
  const workload = { tokens, contextTokens: 100, logitRows: 8, drawnRows: 0 };
  const scratch = kernelScratch(model('mixtral-8x7b'), workload);
  // Each token goes to two experts, whose last product takes 14336 inputs: rounded to 16 bits, and what that left.
  expect(scratch.inputsBytes).toBe(4 * 2 * tokens * 14336 + 4 * 4096);
  // As native/cuda/expert_tiles.cu: a table of tiles, of 16 choices or more, behind the choices.
  expect(scratch.groupsBytes).toBe(4 * 2 * tokens + 16 * ((2 * tokens) / 16 + 8));
  expect(kernelScratch(model('opt-6.7b'), workload).groupsBytes).toBe(0);
});

it('is stated with its parts', () => {
  const [scratch, rounding, code] = cudaCosts(model('bloom-176b'), {
    tokens: 256,
    contextTokens: 4096,
    logitRows: 8,
    drawnRows: 8,
  });
  expect(scratch?.reason).toContain('256 tokens');
  expect(rounding?.bytes).toBe(18 * 2 * MiB);
  expect([scratch, rounding, code].every((term) => term?.tier === 'gpu')).toBe(true);
});
