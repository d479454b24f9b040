// How long one operation takes on a described machine: products from measured points, the rest from the bytes they touch.

import { present } from '../errors.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import { isDense } from '../port/formats.js';
import {
  type BlockCache,
  cacheTensors,
  effects,
  type Op,
  partsOf,
  type Tensor,
  type Weight,
} from '../port/ops.js';
import { dimension } from '../port/tensor.js';
import type { HardwareProfile, ProductRates } from './profile.js';

/** Consecutive tokens of one sequence in a micro-batch, as far as attention's cost depends on them. */
export interface SliceShape {
  readonly tokens: number;
  /** Positions before the first token. */
  readonly startPosition: number;
}

/** Rates of a machine, and what it does with f32 inputs of products with 16-bit weights. */
export interface ComputeRates extends Compute {
  /** They are two halves, each multiplied like the 16-bit inputs that rates were measured with, as on GPUs. */
  readonly inHalves: boolean;
}

type Compute = HardwareProfile['compute'];

/** Milliseconds of `op` in a micro-batch of `slices`. */
export function opMs(op: Op, slices: readonly SliceShape[], compute: ComputeRates): number {
  return compute.launchMs + workMs(op, slices, compute);
}

function workMs(op: Op, slices: readonly SliceShape[], compute: ComputeRates): number {
  switch (op.op) {
    case 'linear': {
      const activated = op.activation === 'none' ? 0 : elementwiseMs([op.out], compute);
      return productMs(op, compute) + activated;
    }
    case 'expert_linear':
    case 'head_linear':
      return productMs(op, compute);
    case 'attention':
      return attentionMs(op, slices, compute);
    case 'kv_store':
      return elementwiseMs(op.v ? [op.k, op.v] : [op.k], compute) * 2;
    case 'causal_conv':
      return elementwiseMs([op.x, op.out, op.weight], compute);
    case 'compress':
      return elementwiseMs([op.values, op.gates, op.bias], compute);
    case 'state_scan':
      return scanMs(op, slices, compute);
    case 'window_attention':
      return windowMs(op, slices, compute);
    case 'gather_rows':
      return elementwiseMs([op.out], compute) * 2;
    case 'bring_experts':
      // Whoever weighs plans counts the bytes that come.
      return elementwiseMs([op.experts], compute);
    case 'find_experts':
      // The drive's time, which whoever weighs plans counts.
      return 0;
    case 'ask_host':
      return elementwiseMs([op.from], compute);
    case 'take_host':
      return elementwiseMs([op.out], compute);
    case 'expert_bias':
      return elementwiseMs([op.x], compute) * 2;
    // All that is bound by what it reads and writes.
    case 'layer_norm':
    case 'rms_norm':
    case 'gated':
    case 'gated_pairs':
    case 'gated_rms':
    case 'hyper_weights':
    case 'hyper_mix':
    case 'gate_sigmoid':
    case 'scale_rows':
    case 'route':
    case 'combine':
    // What its bytes take on their way between devices is weighed with the links.
    case 'reduce':
    case 'add':
    case 'rotary':
    case 'argmax':
    case 'sample':
    case 'top_tokens':
    case 'token_rows':
    case 'nll_fold':
    case 'note_not_finite':
    case 'scale_cap':
    case 'position_scale':
    case 'clamp': {
      const { reads, writes } = effects(op);
      return elementwiseMs([...reads, ...writes], compute);
    }
  }
}

/** What an operation multiplies: so many weights of one shape, each with so many rows. */
export interface Product {
  readonly weight: Weight;
  readonly weightCount: number;
  readonly rowsEach: number;
}

export type ProductOp = Extract<Op, { op: 'linear' | 'expert_linear' | 'head_linear' }>;

/** What a weight's parts take together. */
export function storedBytes(weight: Weight): number {
  return partsOf(weight).reduce((sum, { shape, dtype }) => sum + elementCount(shape) * DTYPE_BYTES[dtype], 0);
}

/** Experts of so many that tokens choose which go to `choices` each, if all are as likely. */
export function touchedExperts(experts: number, choices: number, tokens: number): number {
  return experts * (1 - (1 - choices / experts) ** tokens);
}

/** Only the experts that an even choice is expected to touch count; the rest of a mixture is not read. */
export function productOf(op: ProductOp): Product {
  if (op.op === 'linear') return { weight: op.weight, weightCount: 1, rowsEach: dimension(op.x, 0) };
  if (op.op === 'head_linear') {
    const taken = dimension(op.transposed ? op.x : op.out, 2) * dimension(op.x, 1);
    return { weight: op.weight, weightCount: taken / op.weight.shape[0], rowsEach: dimension(op.x, 0) };
  }
  const experts = op.slots ? dimension(op.slots.table, 0) : op.weights.length;
  const choices = dimension(op.out, 0);
  const touched = touchedExperts(experts, 1, choices);
  return { weight: present(op.weights[0], 'an expert'), weightCount: touched, rowsEach: choices / touched };
}

function productMs(op: ProductOp, { products, inHalves, memoryBytesPerSecond }: ComputeRates): number {
  const { weight, weightCount, rowsEach } = productOf(op);
  const { type } = weight.format;
  const rates = products.find(({ weightType }) => weightType === type) ?? present(products[0], 'rates');
  const halves = inHalves && op.x.dtype === 'f32' && type !== 'f32' ? 2 : 1;
  const elements = elementCount(weight.shape);
  const rows = halves * rowsEach;
  const plain = elements * secondsPerWeight(rates, rows);
  if (isDense(weight.format)) return weightCount * plain * 1e3;
  const valueBytes = elements * DTYPE_BYTES[type];
  const reading = elements * secondsPerWeight(rates, 0);
  // Reading and arithmetic of plain weights overlap; what stored ones have less of is reading.
  const arithmetic = Math.sqrt(Math.max(0, plain ** 2 - reading ** 2));
  const expanding = rows > FEW_ROWS ? (2 * valueBytes) / memoryBytesPerSecond : 0;
  const stored = Math.max((reading * storedBytes(weight)) / valueBytes, arithmetic) + expanding;
  return weightCount * stored * 1e3;
}

/** For more rows kernels make values of stored weights first, which are written and read again. */
const FEW_ROWS = 8;

/** Time per element of a weight grows with the tokens: linearly between measured points, at the last rate beyond. */
export function secondsPerWeight({ points }: ProductRates, tokens: number): number {
  const seconds = (point: (typeof points)[number]) => (2 * point.tokens) / point.flopsPerSecond;
  const next = points.findIndex((point) => point.tokens >= tokens);
  const above = points[next];
  const below = points[next - 1];
  if (!above) {
    const last = present(points.at(-1), 'a point');
    return (seconds(last) * tokens) / last.tokens;
  }
  // Below the first point a product waits for its weights, however few tokens there are.
  if (!below) return seconds(above);
  const part = (tokens - below.tokens) / (above.tokens - below.tokens);
  return seconds(below) + part * (seconds(above) - seconds(below));
}

/** Reading the cache bounds attention of single tokens, arithmetic that of prompts. */
function attentionMs(
  op: Extract<Op, { op: 'attention' }>,
  slices: readonly SliceShape[],
  compute: Compute,
): number {
  const { windowTokens = 0, chunkTokens = 0 } = op.score;
  const [heads, keyDim, valueDim] = [dimension(op.q, 1), dimension(op.q, 2), dimension(op.out, 2)];
  let pairs = 0;
  let positions = 0;
  for (const { tokens, startPosition } of slices.flatMap((slice) => chunksOf(slice, chunkTokens))) {
    pairs += pairsOf(startPosition, tokens, windowTokens);
    const context = startPosition + tokens;
    positions += windowTokens > 0 ? Math.min(context, windowTokens + tokens - 1) : context;
  }
  const flopsSeconds = (2 * pairs * heads * (keyDim + valueDim)) / compute.attentionFlopsPerSecond;
  const bytes = positions * positionBytes(op);
  return Math.max(flopsSeconds, bytes / compute.attentionBytesPerSecond) * 1e3;
}

/** The same over a window and the entries behind it. */
function windowMs(
  { q, window, entries, ratio }: Extract<Op, { op: 'window_attention' }>,
  slices: readonly SliceShape[],
  compute: Compute,
): number {
  const [heads, depth, windowTokens] = [dimension(q, 1), dimension(q, 2), dimension(window, 1)];
  let [pairs, positions] = [0, 0];
  for (const { startPosition, tokens } of slices) {
    const context = startPosition + tokens;
    const seen = entries ? Math.floor(context / ratio) : 0;
    pairs +=
      pairsOf(startPosition, tokens, windowTokens) +
      (entries ? pairsOf(startPosition, tokens, 0) / ratio : 0);
    positions += Math.min(context, windowTokens + tokens - 1) + seen;
  }
  const flopsSeconds = (4 * pairs * heads * depth) / compute.attentionFlopsPerSecond;
  const bytes = positions * depth * DTYPE_BYTES.f32;
  return Math.max(flopsSeconds, bytes / compute.attentionBytesPerSecond) * 1e3;
}

/** The states of the sequences are read and written once; every token multiplies all of its sequence's three times. */
function scanMs(
  op: Extract<Op, { op: 'state_scan' }>,
  slices: readonly SliceShape[],
  compute: Compute,
): number {
  const elements = elementCount(op.state.shape.slice(1));
  const stateMs = (2 * slices.length * elements * DTYPE_BYTES.f32 * 1e3) / compute.elementwiseBytesPerSecond;
  const arithmeticMs = (6 * dimension(op.q, 0) * elements * 1e3) / compute.attentionFlopsPerSecond;
  return elementwiseMs([op.q, op.k, op.v, op.out], compute) + Math.max(stateMs, arithmeticMs);
}

/** What a slice has of each chunk, as if the chunk were a sequence of its own; itself where there are none. */
function chunksOf(slice: SliceShape, chunkTokens: number): SliceShape[] {
  if (chunkTokens === 0) return [slice];
  const chunks: SliceShape[] = [];
  for (let done = 0; done < slice.tokens; ) {
    const startPosition = (slice.startPosition + done) % chunkTokens;
    const tokens = Math.min(slice.tokens - done, chunkTokens - startPosition);
    chunks.push({ tokens, startPosition });
    done += tokens;
  }
  return chunks;
}

/** What is cached of one position in one block. */
function positionBytes(cache: BlockCache): number {
  return cacheTensors(cache).reduce(
    (sum, { dtype, shape: [, kvHeads = 0, , columns = 0] }) => sum + kvHeads * columns * DTYPE_BYTES[dtype],
    0,
  );
}

/** How many (token, position it sees) there are. */
function pairsOf(start: number, tokens: number, window: number): number {
  const all = tokens * start + (tokens * (tokens + 1)) / 2;
  if (window === 0 || start + tokens <= window) return all;
  // Tokens at positions below `window` still see everything.
  const unlimited = Math.max(0, window - start);
  return unlimited * start + (unlimited * (unlimited + 1)) / 2 + (tokens - unlimited) * window;
}

function elementwiseMs(tensors: readonly Tensor[], { elementwiseBytesPerSecond }: Compute) {
  const bytes = tensors.reduce((sum, { shape, dtype }) => sum + elementCount(shape) * DTYPE_BYTES[dtype], 0);
  return (bytes / elementwiseBytesPerSecond) * 1e3;
}
