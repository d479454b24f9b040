// What the kernels of a GPU allocate for themselves beside the plan's memories: a bound, which the addon answers.

import { encodeOp, joinEncoded } from '../backends/op-encoding.js';
import { deviceActivationType } from '../model/activation-type.js';
import { type ForwardTypes, ForwardWalk } from '../model/forward-walk.js';
import type { KvDType } from '../model/kv-type.js';
import type { ModelSpec } from '../model/model.js';
import type { FloatType } from '../port/dtype.js';
import { native } from '../port/native.js';
import type { ScratchBytes } from '../port/native-devices.js';

export interface KernelScratch {
  readonly productsBytes: number;
  /** Inputs of a product in its weights' 16-bit type, what rounding left of them, and sums that wait for an activation. */
  readonly inputsBytes: number;
  /** Choices of a mixture, grouped by expert; 0 where none are made. */
  readonly groupsBytes: number;
  /** Values of weights that are stored in parts, some rows at a time; 0 where weights are values. */
  readonly weightsBytes: number;
  /** Parts of attention over long contexts, or logits that a token is drawn from. */
  readonly partialsBytes: number;
  readonly bytes: number;
}

export interface ScratchWorkload {
  /** What a micro-batch has, at most. */
  readonly tokens: number;
  readonly contextTokens: number;
  /** Rows that the head computes at once. */
  readonly logitRows: number;
  /** Rows whose tokens are drawn at once; 0 where none are. */
  readonly drawnRows: number;
  /** Default what the devices choose. */
  readonly activationType?: FloatType;
  /** Default that of the activations. */
  readonly kvType?: KvDType;
}

/** Answers what some operations take with any number of rows up to that many. */
type Bound = (rows: number, contextTokens: number) => ScratchBytes;

interface Bounds {
  readonly tokens: Bound;
  readonly logitRows: Bound;
  readonly drawnRows: Bound;
}

/** By the types of activations, and of keys and values. */
const known = new WeakMap<ModelSpec, Map<string, Bounds>>();

export function kernelScratch(model: ModelSpec, workload: ScratchWorkload): KernelScratch {
  const { contextTokens, activationType = deviceActivationType(model), kvType = activationType } = workload;
  const ofTypes = known.get(model) ?? new Map<string, Bounds>();
  known.set(model, ofTypes);
  const key = `${activationType} ${kvType}`;
  const bounds = ofTypes.get(key) ?? boundsOf(model, { activationType, kvType });
  ofTypes.set(key, bounds);
  const layers = bounds.tokens(workload.tokens, contextTokens);
  const head = bounds.logitRows(workload.logitRows, contextTokens);
  const drawing = bounds.drawnRows(workload.drawnRows, contextTokens);
  const most = (use: keyof ScratchBytes) => Math.max(layers[use], head[use], drawing[use]);
  const productsBytes = most('products');
  const inputsBytes = most('inputs') + most('rests') + most('sums') + most('bias');
  const groupsBytes = most('choices');
  const weightsBytes = most('weights');
  const partialsBytes = most('partials');
  const bytes = productsBytes + inputsBytes + groupsBytes + weightsBytes + partialsBytes;
  return { productsBytes, inputsBytes, groupsBytes, weightsBytes, partialsBytes, bytes };
}

function boundsOf(model: ModelSpec, types: ForwardTypes): Bounds {
  const boundOf = (go: (walk: ForwardWalk) => void) =>
    boundOfOperations(distinctOperations(model, types, go));
  return {
    tokens: boundOf((walk) => {
      walk.embed(1);
      for (let index = 0; index < model.blocks.length; index++) walk.block(index, 1);
    }),
    logitRows: boundOf((walk) => {
      walk.headInput(1);
      walk.headPiece(model.head.projection, 1);
    }),
    drawnRows: boundOf((walk) => walk.draw(1)),
  };
}

/** Planning asks for the same sizes thousands of times. */
function boundOfOperations(operations: Float64Array): Bound {
  const answers = new Map<number, Map<number, ScratchBytes>>();
  return (rows, contextTokens) => {
    const ofContext = answers.get(contextTokens) ?? new Map<number, ScratchBytes>();
    answers.set(contextTokens, ofContext);
    const bytes = ofContext.get(rows) ?? native().cudaScratchBytes(operations, { rows, contextTokens });
    ofContext.set(rows, bytes);
    return bytes;
  };
}

/** As one token, or row, has them, each after its length. Most blocks repeat those of the first one. */
function distinctOperations(
  model: ModelSpec,
  types: ForwardTypes,
  go: (walk: ForwardWalk) => void,
): Float64Array {
  const distinct = new Map<string, Float64Array>();
  const walk = new ForwardWalk(model, types, (op) => {
    const words = encodeOp(op);
    const key = Buffer.from(words.buffer, words.byteOffset, words.byteLength).toString('latin1');
    if (!distinct.has(key)) distinct.set(key, words.slice());
  });
  go(walk);
  return joinEncoded(distinct.values());
}
