// Runs a model's forward without data: how much scratch it needs and how much arithmetic it is.

import { ForwardWalk } from '../model/forward-walk.js';
import type { ModelSpec } from '../model/model.js';
import type { FloatType } from '../port/dtype.js';
import { dimension } from '../port/tensor.js';

export interface DryRun {
  /** Scratch of the largest layer for one micro-batch. */
  readonly workspaceBytes: number;
  /** Arithmetic of all blocks' products, for one token. */
  readonly blockFlopsPerToken: number;
}

/** By model: planning asks for the same sizes again and again, most of all where it looks for a batch. */
const known = new WeakMap<ModelSpec, Map<string, DryRun>>();

/** @param tokens of a micro-batch; @param rows of it whose logits are wanted; @param activationType what it makes */
export function dryRun(model: ModelSpec, tokens: number, rows: number, activationType: FloatType): DryRun {
  const blocks = once(model, `blocks ${tokens} ${activationType}`, () =>
    ofBlocks(model, tokens, activationType),
  );
  const head = once(model, `head ${rows} ${activationType}`, () => ofHead(model, rows, activationType));
  return { ...blocks, workspaceBytes: Math.max(blocks.workspaceBytes, head.workspaceBytes) };
}

function once(model: ModelSpec, key: string, run: () => DryRun): DryRun {
  const runs = known.get(model) ?? new Map<string, DryRun>();
  known.set(model, runs);
  const result = runs.get(key) ?? run();
  runs.set(key, result);
  return result;
}

function ofBlocks(model: ModelSpec, tokens: number, activationType: FloatType): DryRun {
  let flops = 0;
  const walk = new ForwardWalk(model, { activationType, kvType: activationType }, (op) => {
    // A row of the result is one product, also with experts: however many there are, each choice is computed once.
    if (op.op === 'linear' || op.op === 'expert_linear') {
      flops += 2 * dimension(op.out, 0) * dimension(op.out, 1) * dimension(op.x, 1);
    }
  });
  walk.embed(tokens);
  flops = 0;
  // Every block, since one may be wider than the others.
  for (let index = 0; index < model.blocks.length; index++) walk.block(index, tokens);
  return { workspaceBytes: walk.workspaceBytes, blockFlopsPerToken: flops / tokens };
}

function ofHead(model: ModelSpec, rows: number, activationType: FloatType): DryRun {
  const walk = new ForwardWalk(model, { activationType, kvType: activationType }, () => undefined);
  walk.headInput(rows);
  return { workspaceBytes: walk.workspaceBytes, blockFlopsPerToken: 0 };
}
