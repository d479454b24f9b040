// What the host computes of a mixture in a device's place: the operations between a block's choice of experts and the sum of their
// results, cut out of the block's record.

import { PART_NAMES } from '../port/formats.js';
import { effects, type Memory, type Op, spanBytes, type Tensor } from '../port/ops.js';
import { ForwardWalk, type WalkPlace } from './forward-walk.js';
import type { ModelSpec } from './model.js';

/** A block's part for so many tokens, on tensors of the place's workspace. */
export interface HostRecord {
  readonly ops: readonly Op[];
  /** f32 [T, K], i32 [T, k], f32 [T, k] where any operation reads them, f32 [T · k, N]. */
  readonly x: Tensor;
  readonly experts: Tensor;
  readonly weights: Tensor | null;
  readonly y: Tensor;
  readonly workspaceBytes: number;
}

/** Undefined where a block chooses no experts, chooses twice, or takes more between choice and sum than the host is given. */
export function recordHostPart(
  model: ModelSpec,
  block: number,
  tokens: number,
  place: WalkPlace,
): HostRecord | undefined {
  const all: Op[] = [];
  const walk = new ForwardWalk(model, { activationType: 'f32', kvType: 'f32' }, (op) => all.push(op), place);
  walk.block(block, tokens);
  const cut = cutOut(all, place.workspace);
  return cut && { ...cut, workspaceBytes: walk.workspaceBytes };
}

function cutOut(all: readonly Op[], workspace: Memory): Omit<HostRecord, 'workspaceBytes'> | undefined {
  const routes = all.filter((op) => op.op === 'route');
  const [route, more] = routes;
  const begin = all.findIndex((op) => op.op === 'expert_linear');
  const end = all.findIndex((op, at) => op.op === 'combine' && at > begin);
  const [product, sum] = [all[begin], all[end]];
  if (!route || more || product?.op !== 'expert_linear' || sum?.op !== 'combine') return undefined;
  const given = { x: product.x, experts: route.experts, weights: route.weights };
  if (given.x.memory !== workspace || all.slice(end).some((op) => op.op === 'expert_linear'))
    return undefined;
  const ops: Op[] = [];
  let needed: Tensor[] = [sum.y];
  for (const op of all.slice(begin, end).reverse()) {
    const { reads, writes } = effects(op);
    if (!writes.some((written) => needed.some((tensor) => overlap(written, tensor)))) continue;
    ops.unshift(op);
    needed = [...needed.filter((tensor) => !writes.some((written) => covers(written, tensor))), ...reads];
  }
  const home = homeOf(product);
  const made = needed.filter(({ memory }) => memory === workspace || memory !== home);
  const isGiven = (tensor: Tensor) => Object.values(given).some((one) => covers(one, tensor));
  if (!made.every(isGiven)) return undefined;
  const weighs = made.some((tensor) => covers(given.weights, tensor));
  return { ops, ...given, weights: weighs ? given.weights : null, y: sum.y };
}

/** Where the layer's weights lie. */
function homeOf({ weights }: Op & { op: 'expert_linear' }): Memory | undefined {
  const parts = weights[0]?.parts ?? {};
  return PART_NAMES.flatMap((name) => parts[name]?.memory ?? [])[0];
}

function overlap(a: Tensor, b: Tensor): boolean {
  if (a.memory !== b.memory) return false;
  return a.offsetBytes < b.offsetBytes + spanBytes(b) && b.offsetBytes < a.offsetBytes + spanBytes(a);
}

/** Every byte of b is one of a. */
function covers(a: Tensor, b: Tensor): boolean {
  if (a.memory !== b.memory || b.offsetBytes < a.offsetBytes) return false;
  return b.offsetBytes + spanBytes(b) <= a.offsetBytes + spanBytes(a);
}
