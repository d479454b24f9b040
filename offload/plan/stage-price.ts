// What a pipeline's job takes at usual rates: what each layer costs, and the pace that the slowest stage sets.

import { present } from '../errors.js';
import { ForwardWalk } from '../model/forward-walk.js';
import { kindsOf } from './block-kinds.js';
import type { Draft } from './draft.js';
import { total } from './draft.js';
import type { PlanInput } from './input.js';
import { opMs, type SliceShape } from './op-cost.js';
import type { Sizes } from './plan.js';
import {
  DRIVE_BYTES_PER_SECOND,
  kvTokenBytes,
  LINK_BYTES_PER_SECOND,
  newTokensOf,
  ratesFor,
} from './price.js';

/** A pass of one batch, as far as its cost depends on it. */
interface PassShape {
  readonly slices: readonly SliceShape[];
  readonly outputs: number;
  readonly microBatches: number;
  /** Passes of that kind that each batch needs. */
  readonly times: number;
  /** Whose keys and values go over links in a pass, where they rest in DRAM. */
  readonly cachedTokens: number;
}

/** Passes that take prompts in, and those that make tokens one by one. */
function passesOf(input: PlanInput, sizes: Sizes): PassShape[] {
  const { workload } = input;
  const { promptTokens, sequences } = workload;
  const prompt = Math.max(1, Math.round(promptTokens / sequences));
  const steps = Math.max(0, newTokensOf(workload, prompt) - 1);
  const tokens = Math.min(sizes.microBatchTokens, promptTokens, sizes.microBatchSequences * prompt);
  const each = Math.min(prompt, tokens);
  const inPass = Math.max(tokens, Math.min(sizes.passTokens, promptTokens));
  const perStep = Math.min(sequences, sizes.microBatchSequences);
  const context = prompt + Math.floor(steps / 2);
  return [
    {
      slices: Array.from({ length: Math.max(1, Math.round(tokens / each)) }, () => ({
        tokens: each,
        startPosition: 0,
      })),
      outputs: workload.output === 'nll' ? tokens : Math.ceil(tokens / prompt),
      microBatches: Math.ceil(inPass / tokens),
      times: Math.ceil(promptTokens / inPass),
      cachedTokens: inPass,
    },
    {
      slices: Array.from({ length: perStep }, () => ({ tokens: 1, startPosition: context })),
      outputs: perStep,
      microBatches: Math.ceil(sequences / perStep),
      times: steps,
      cachedTokens: sequences * context,
    },
  ];
}

const known = new WeakMap<PlanInput, Map<string, readonly number[]>>();

/** By layer, of one micro-batch. */
function layersMs(input: PlanInput, { slices, outputs }: PassShape): readonly number[] {
  const { model, activationType, kvType, layers } = input;
  const [first] = slices;
  const key = `${slices.length} ${first?.tokens} ${first?.startPosition} ${outputs}`;
  const times = known.get(input) ?? new Map<string, readonly number[]>();
  known.set(input, times);
  const before = times.get(key);
  if (before) return before;
  const { compute } = ratesFor(input);
  const tokens = slices.reduce((sum, slice) => sum + slice.tokens, 0);
  let ms = 0;
  const walk = new ForwardWalk(model, { activationType, kvType }, (op) => {
    ms += opMs(op, slices, compute);
  });
  const msOf = (queue: () => void) => {
    ms = 0;
    queue();
    return ms;
  };
  const blocks = new Map<number, number>();
  for (const { index, alike } of kindsOf(model)) {
    const each = msOf(() => walk.block(index, tokens));
    for (const block of alike) blocks.set(block, each);
  }
  const found = layers.map(({ kind, index, layout }) => {
    if (kind === 'block') return present(blocks.get(index), 'a block of some kind');
    const projection = layout.layer.matrices.find((matrix) => matrix.key === 'projection');
    return outputs > 0 ? msOf(() => walk.headPiece(present(projection, 'projection'), outputs)) : 0;
  });
  times.set(key, found);
  return found;
}

/** What one batch's job takes of each layer, and in how many passes. */
export function layerJobMs(
  input: PlanInput,
  sizes: Sizes,
): { readonly layers: readonly number[]; readonly passes: number } {
  const shapes = passesOf(input, sizes).filter(({ times }) => times > 0);
  const each = shapes.map((shape) =>
    layersMs(input, shape).map((ms) => shape.times * shape.microBatches * ms),
  );
  return {
    layers: input.layers.map((_, layer) => each.reduce((sum, one) => sum + (one[layer] ?? 0), 0)),
    passes: shapes.reduce((sum, { times }) => sum + times, 0),
  };
}

/** Milliseconds until all batches on their way have their new tokens. */
export function pipelineMs(input: PlanInput, draft: Draft): number {
  const { sizes, stages = [], onDevices, inDram } = draft;
  const { deviceLayerBytes, hostLayerBytes, batches } = input;
  const { passMs } = ratesFor(input).compute;
  let next = 0;
  const streams = onDevices.map((resident) => ({ link: !resident, drive: !resident && !inDram[next++] }));
  const bytesOf = (kind: 'link' | 'drive', bytes: readonly number[]) =>
    bytes.map((one, layer) => (streams[layer]?.[kind] ? one : 0));
  const [linkBytes, driveBytes] = [bytesOf('link', deviceLayerBytes), bytesOf('drive', hostLayerBytes)];
  // The drive is the same for all stages.
  const driveMs = (total(driveBytes) / DRIVE_BYTES_PER_SECOND) * 1e3;
  let all = 0;
  for (const shape of passesOf(input, sizes)) {
    if (shape.times === 0) continue;
    const ms = layersMs(input, shape);
    const kvBytes = sizes.kvBuffers.count > 0 ? shape.cachedTokens * kvTokenBytes(input) : 0;
    const stageMs = stages.map(({ first, end }) => {
      const computeMs = shape.microBatches * total(ms.slice(first, end));
      const blocks = input.layers.slice(first, end).filter(({ kind }) => kind === 'block').length;
      const ownKvBytes = (kvBytes * blocks) / input.model.blocks.length;
      const bytes = total(linkBytes.slice(first, end)) + ownKvBytes;
      return Math.max(computeMs, (bytes / LINK_BYTES_PER_SECOND) * 1e3);
    });
    const slowest = Math.max(...stageMs, driveMs);
    // A batch's next pass begins when it is through; others keep the stages busy meanwhile. At both ends some stages idle.
    const roundMs = Math.max(batches * slowest, total(stageMs) + passMs);
    all += shape.times * roundMs + (total(stageMs) - Math.max(...stageMs));
  }
  return all;
}
