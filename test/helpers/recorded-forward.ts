// Runs an architecture's forward on a stream that only writes down: what a configuration makes of the arithmetic.

import { ForwardOps } from '../../offload/model/forward-ops.js';
import type { SequenceLength } from '../../offload/model/forward-options.js';
import { layerCaches } from '../../offload/model/kv-cache.js';
import type { Weights } from '../../offload/model/model.js';
import { stateFields } from '../../offload/model/state-cache.js';
import { Workspace } from '../../offload/model/workspace.js';
import type { OpStream } from '../../offload/port/backend.js';
import type { AttentionTables, Memory, Op, ScoreRule, Tensor } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';
import { type ArchitectureModel, chooseWay, type TensorDef } from '../../src/models/architecture.js';

const NOWHERE: Memory = { id: -1, sizeBytes: Number.MAX_SAFE_INTEGER };
const TOKENS = 3;

export interface RecordedForward {
  readonly embed: readonly Op[];
  /** By block. */
  readonly blocks: readonly (readonly Op[])[];
  readonly head: readonly Op[];
}

/** @param lengths sequences that the three tokens belong to */
export function recordForward(
  model: ArchitectureModel,
  lengths: readonly SequenceLength[] = [{ tokens: TOKENS, knownTokens: TOKENS }],
): RecordedForward {
  let ops: Op[] = [];
  const stream: OpStream = { launch: (op) => void ops.push(op) };
  const recorded = (queue: () => void): Op[] => {
    ops = [];
    queue();
    return ops;
  };
  const constants = Object.entries(model.constants).map(
    ([name, values]) => [name, floats([values.length])] as const,
  );
  const k = new ForwardOps(stream, new Workspace(NOWHERE, 'f32'), new Map(constants));
  const x = floats([TOKENS, model.hiddenSize]);
  const fixed = weightsOf(model.fixed);
  const states = stateFields(NOWHERE, model.caches, { slots: 1, contextTokens: TOKENS });
  const caches = layerCaches(NOWHERE, { caches: model.caches, dtype: 'f32' }, { kvPages: 1, horizons: [] });
  return {
    embed: recorded(() => model.forward.embed(k, fixed, (key) => lookedUp(model, key), x)),
    blocks: Array.from({ length: model.blockCount }, (_, index) =>
      recorded(() => {
        const fields = states[index];
        k.enter(TABLES, caches[index], lengths, fields && { fields, tables: STATES });
        model.forward.block(k, weightsOf(chooseWay(model.block(index), () => false)), x, index);
      }),
    ),
    head: recorded(() => {
      const columns = model.head.projection.shape[1] ?? 0;
      model.forward.headInput(k, fixed, x, floats([TOKENS, columns]));
    }),
  };
}

/** One field of every operation of a kind, block by block: `fields(model, 'attention', 'windowTokens')`. */
export function fieldOf<Kind extends Op['op'], Field extends keyof Extract<Op, { op: Kind }>>(
  model: ArchitectureModel,
  kind: Kind,
  field: Field,
): Extract<Op, { op: Kind }>[Field][] {
  return recordForward(model)
    .blocks.flat()
    .filter((op): op is Extract<Op, { op: Kind }> => op.op === kind)
    .map((op) => op[field]);
}

/** One field of every block's rule for scores. */
export function scoreOf<Field extends keyof ScoreRule>(
  model: ArchitectureModel,
  field: Field,
): ScoreRule[Field][] {
  return fieldOf(model, 'attention', 'score').map((score) => score[field]);
}

const ints = (shape: readonly number[]): Tensor => tensor(NOWHERE, 0, 'i32', shape);
const floats = (shape: readonly number[]): Tensor => tensor(NOWHERE, 0, 'f32', shape);

const TABLES: AttentionTables = {
  sequences: ints([1, 4]),
  pages: ints([1]),
  slots: ints([TOKENS]),
  positions: ints([TOKENS]),
  tokens: ints([TOKENS]),
  maxContextTokens: TOKENS,
};
const STATES = { sequences: ints([1, 4]), slots: ints([1]) };

function lookedUp(model: ArchitectureModel, key: string): { table: Tensor; rows: Tensor } {
  const table = model.tables.find((candidate) => candidate.key === key);
  if (!table) throw new Error(`no table ${key}`);
  return { table: floats(table.shape), rows: ints([TOKENS]) };
}

function weightsOf(defs: readonly TensorDef[]): Weights {
  const find = (key: string) => {
    const def = defs.find((candidate) => candidate.key === key);
    return def ? floats(def.shape) : null;
  };
  const get = (key: string) => {
    const found = find(key);
    if (!found) throw new Error(`the forward asks for ${key}, which the layer does not list`);
    return found;
  };
  const matrix = (key: string) => {
    const inputMajor = defs.find((candidate) => candidate.key === key)?.inputMajor ?? false;
    const [N = 0, K = 0] = get(key).shape;
    return denseWeight(floats(inputMajor ? [K, N] : [N, K]), inputMajor);
  };
  return Object.assign(get, {
    optional: find,
    matrix,
    hasMatrix: (key: string) => find(key) !== null,
    experts: (keys: readonly string[]) => keys.map(matrix),
  });
}
