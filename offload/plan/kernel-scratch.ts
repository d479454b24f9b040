// What the kernels of a GPU allocate for themselves beside the plan's memories: bounds of what native/cuda/run.h grows.

import { deviceActivationType } from '../model/activation-type.js';
import { ForwardWalk, headInputColumns } from '../model/forward-walk.js';
import type { ModelSpec } from '../model/model.js';
import { DTYPE_BYTES, type DType } from '../port/dtype.js';
import type { Op } from '../port/ops.js';
import { dimension } from '../port/tensor.js';
import { MiB, roundUp } from '../units.js';

/** Of the library that makes products, per stream that computes. */
const PRODUCTS_WORKSPACE_BYTES = 32 * MiB;
/** Rows of converted inputs are that many elements long, or a multiple. */
const ROW_ELEMENTS = 8;
const FEW_TOKENS = 8;
/** Attention of few tokens cuts contexts there, and only while it has fewer blocks (token · head) than this. */
const SPLIT_TOKENS = 256;
const ENOUGH_BLOCKS = 512;
/** Where tiles do the sequences with this many new tokens, the kernel has blocks for nearly as many of each sequence. */
const TILE_TOKENS = 16;
/** A choice of a mixture in the order of the experts; a tile of an expert's choices, each of 16 of them or more. */
const CHOICE_BYTES = 4;
const EXPERT_TILE_BYTES = 16;
const EXPERT_TILE_CHOICES = 16;

export interface KernelScratch {
  readonly productsBytes: number;
  /** Inputs of a product in its weights' 16-bit type, and sums that an activation still has to pass. */
  readonly inputsBytes: number;
  /** Choices of a mixture, grouped by expert; 0 where none are made. */
  readonly groupsBytes: number;
  /** Parts of attention over long contexts, or logits that a token is drawn from. */
  readonly partialsBytes: number;
  readonly bytes: number;
}

export interface ScratchWorkload {
  /** Of a micro-batch, at most. */
  readonly tokens: number;
  readonly contextTokens: number;
  /** Rows that the head computes at once. */
  readonly logitRows: number;
  /** Rows whose tokens are drawn at once; 0 where none are. */
  readonly drawnRows: number;
}

/** Of a model's operations, whatever the number of tokens. */
interface Widths {
  /** Elements of the widest input of a product, and of sums that an activation still has to pass. */
  readonly input: number;
  readonly apart: number;
  /** Of the widest result, whose bias may have to be converted. */
  readonly output: number;
  /** Of a mixture; choices are a token's. */
  readonly experts: number;
  readonly choices: number;
  readonly heads: number;
  readonly headDim: number;
}

const known = new WeakMap<ModelSpec, Widths>();

export function kernelScratch(model: ModelSpec, workload: ScratchWorkload): KernelScratch {
  const { tokens, contextTokens, logitRows, drawnRows } = workload;
  const widths = known.get(model) ?? widthsOf(model);
  known.set(model, widths);
  const inputs = Math.max(
    convertedBytes(tokens, deviceActivationType(model)) * widths.input,
    convertedBytes(logitRows, 'f32') * roundUp(headInputColumns(model), ROW_ELEMENTS),
  );
  const inputsBytes = inputs + 4 * tokens * widths.apart + 4 * widths.output;
  const choices = tokens * widths.choices;
  const tiles = Math.ceil(choices / EXPERT_TILE_CHOICES) + Math.min(choices, widths.experts);
  const groupsBytes = roundUp(CHOICE_BYTES * choices, EXPERT_TILE_BYTES) + EXPERT_TILE_BYTES * tiles;
  const splits = Math.ceil(contextTokens / SPLIT_TOKENS);
  const blocks = Math.min(tokens * TILE_TOKENS * widths.heads, ENOUGH_BLOCKS - 1);
  // A maximum, a sum, and values.
  const partsBytes = splits > 1 ? 4 * blocks * splits * (2 + widths.headDim) : 0;
  const partialsBytes = Math.max(partsBytes, 4 * drawnRows * model.vocabSize);
  return {
    productsBytes: PRODUCTS_WORKSPACE_BYTES,
    inputsBytes,
    groupsBytes,
    partialsBytes,
    bytes: PRODUCTS_WORKSPACE_BYTES + inputsBytes + groupsBytes + partialsBytes,
  };
}

/**
 * Of one element of all rows: f32 for the few tokens whose products are our own, else the weights' 16 bits, and as many
 * for what rounding f32 leaves.
 */
function convertedBytes(rows: number, type: DType): number {
  return Math.max(DTYPE_BYTES[type] * rows, 4 * Math.min(rows, FEW_TOKENS));
}

function widthsOf(model: ModelSpec): Widths {
  let [input, apart, output, experts, choices, heads, headDim] = [0, 0, 0, 0, 0, 0, 0];
  const walk = new ForwardWalk(model, deviceActivationType(model), (op: Op) => {
    if (op.op === 'linear') {
      input = Math.max(input, roundUp(dimension(op.x, 1), ROW_ELEMENTS));
      output = Math.max(output, dimension(op.out, 1));
      const { dtype } = op.out;
      const waits =
        (op.accumulate && op.activation !== 'none') || (dtype !== 'f32' && dtype !== op.weight.dtype);
      if (waits) apart = Math.max(apart, roundUp(dimension(op.out, 1), ROW_ELEMENTS));
    } else if (op.op === 'expert_linear') {
      experts = Math.max(experts, op.weights.length);
      choices = Math.max(choices, dimension(op.out, 0));
      if (op.x.dtype !== op.weights[0]?.dtype) {
        // A row per choice, or per token. f32 becomes two halves; 16 bits of another type become f32.
        const wider = op.x.dtype === 'f32' ? 1 : 2;
        input = Math.max(input, wider * dimension(op.x, 0) * roundUp(dimension(op.x, 1), ROW_ELEMENTS));
      }
    } else if (op.op === 'attention') {
      heads = Math.max(heads, dimension(op.q, 1));
      headDim = Math.max(headDim, dimension(op.q, 2));
    }
  });
  for (let index = 0; index < model.blocks.length; index++) walk.block(index, 1);
  return { input, apart, output, experts, choices, heads, headDim };
}
