// Runs a model's forward without data: how much scratch it needs and how much arithmetic it is.

import type { DType } from './dtype.js';
import { ForwardWalk } from './forward-walk.js';
import type { ModelSpec } from './model.js';
import { dimension } from './tensor.js';

export interface DryRun {
  /** Scratch of the largest layer for one micro-batch. */
  readonly workspaceBytes: number;
  /** Of all blocks' products, for one token. */
  readonly blockFlopsPerToken: number;
}

/** @param tokens of a micro-batch; @param rows of it whose logits are wanted; @param activationType what it makes */
export function dryRun(model: ModelSpec, tokens: number, rows: number, activationType: DType): DryRun {
  let flops = 0;
  const walk = new ForwardWalk(model, activationType, (op) => {
    // A row of the result is one product, also with experts: however many there are, each choice is computed once.
    if (op.op === 'linear' || op.op === 'expert_linear') {
      flops += 2 * dimension(op.out, 0) * dimension(op.out, 1) * dimension(op.x, 1);
    }
  });
  walk.embed(tokens);
  flops = 0;
  // Every block, since one may be wider than the others.
  for (let index = 0; index < model.blocks.length; index++) walk.block(index, tokens);
  const blockFlopsPerToken = flops / tokens;
  walk.headInput(rows);
  return { workspaceBytes: walk.workspaceBytes, blockFlopsPerToken };
}
