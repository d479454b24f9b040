// What a model's forward is written in: methods that each allocate a result in the workspace and queue one operation.

import { assert, present } from '../errors.js';
import type { OpStream } from '../port/backend.js';
import type { Exchange } from '../port/exchange.js';
import type {
  Activation,
  AttentionTables,
  RouteRule,
  SamplingTables,
  ScoreRule,
  Tensor,
  Weight,
} from '../port/ops.js';
import { dimension, heads, reshaped, rows } from '../port/tensor.js';
import { isKept } from './cache-spec.js';
import { ChosenExperts } from './chosen-experts.js';
import type {
  ExpertWeights,
  Fold,
  FrequenciesByLength,
  HeadRows,
  HyperOptions,
  HyperWeights,
  LinearOptions,
  NormFromOne,
  PositionScale,
  RouteOptions,
  Routing,
  SequenceLength,
} from './forward-options.js';
import type { LayerCache } from './kv-cache.js';
import type {
  CompressOptions,
  ConvolutionOptions,
  LayerStates,
  ScanOptions,
  WindowOptions,
} from './layer-states.js';
import { runsOfLengths } from './length-runs.js';
import { PartialSums } from './partial-sums.js';
import { SplitProducts } from './split-products.js';
import type { Workspace } from './workspace.js';

/** Builds the operations of one micro-batch on one stream. T tokens, H hidden size. */
export class ForwardOps {
  readonly #stream: SplitProducts;
  readonly #workspace: Workspace;
  readonly #constants: ReadonlyMap<string, Tensor>;
  #tables: AttentionTables | undefined;
  #cache: LayerCache | undefined;
  #lengths: readonly SequenceLength[] = [];
  #states: LayerStates | undefined;
  readonly #chosen: ChosenExperts;
  readonly #sums: PartialSums;

  /** @param exchange where devices share matrices' inputs: what they sum through */
  constructor(
    stream: OpStream,
    workspace: Workspace,
    constants: ReadonlyMap<string, Tensor>,
    exchange?: Exchange,
  ) {
    this.#stream = new SplitProducts(stream);
    this.#workspace = workspace;
    this.#constants = constants;
    this.#chosen = new ChosenExperts(this.#stream);
    this.#sums = new PartialSums(this.#stream, workspace, exchange);
  }

  /** Starts a layer for a micro-batch: the workspace is free again. */
  enter(
    tables: AttentionTables | undefined,
    cache: LayerCache | undefined,
    lengths: readonly SequenceLength[] = [],
    states?: LayerStates,
  ): void {
    this.#chosen.forget();
    this.#states = states;
    this.#lengths = lengths;
    this.#tables = tables;
    this.#cache = cache;
    this.#workspace.reset();
  }

  /** [slots, …]: what the block keeps per sequence under this name. */
  state(name: string): Tensor {
    return present(this.#states?.fields.get(name), `state ${name}`);
  }

  /** A constant of the model, f32, already on the device. */
  constant(name: string): Tensor {
    return present(this.#constants.get(name), `constant ${name}`);
  }

  /** A new tensor of the activations' type; its content is undefined. */
  empty(shape: readonly number[]): Tensor {
    return this.#workspace.allocate(shape, this.#workspace.activationType);
  }

  /** A new f32 tensor, for what decides or must not be rounded. */
  floats(shape: readonly number[]): Tensor {
    return this.#workspace.allocate(shape, 'f32');
  }

  /** out[t] (+)= table[rows[t]] · scale. */
  gather(
    out: Tensor,
    table: Tensor,
    rows: Tensor,
    options: { accumulate?: boolean; scale?: number } = {},
  ): Tensor {
    const { accumulate = false, scale = 1 } = options;
    this.#stream.launch({ op: 'gather_rows', out, table, rows, accumulate, scale });
    return out;
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor | null, eps: number, out = this.empty(x.shape)): Tensor {
    this.#stream.launch({ op: 'layer_norm', out, x, weight, bias, eps });
    return out;
  }

  /** The same for models that store the deviation of the weight from one. */
  layerNormFromOne(x: Tensor, { weight, bias, eps, out = this.empty(x.shape) }: NormFromOne): Tensor {
    this.#stream.launch({ op: 'layer_norm', out, x, weight, bias, eps, weightOffset: 1 });
    return out;
  }

  /** `weightOffset` is 1 for models that store the deviation of the weight from one. */
  rmsNorm(
    x: Tensor,
    weight: Tensor | null,
    eps: number,
    weightOffset = 0,
    out = this.empty(x.shape),
  ): Tensor {
    this.#stream.launch({ op: 'rms_norm', out, x, weight, eps, weightOffset });
    return out;
  }

  /** x [T, K] → [T, N]. */
  linear(x: Tensor, weight: Weight, options: LinearOptions = {}, into?: Tensor): Tensor {
    const { bias = null, activation = 'none', addTo } = options;
    const out = addTo ?? into ?? this.empty([dimension(x, 0), weight.shape[0]]);
    const accumulate = addTo !== undefined;
    const op = { op: 'linear', out, x, weight, bias, activation, accumulate } as const;
    weight.isPartial ? this.#sums.linear(op) : this.#stream.multiply(op);
    return out;
  }

  /** Queues products that wait for others of their input: before work is queued by anything but these methods. */
  flush(): void {
    this.#stream.flush();
  }

  /**
   * Each head's own product: x [T, heads, K] → [T, heads, N], with `rows` rows from `firstRow` on of the head's share of the
   * weight, or with their transpose. Heads have equal shares, one after the other.
   */
  headLinear(x: Tensor, weight: Weight, part: HeadRows, into?: Tensor): Tensor {
    const { firstRow, rows: taken, transposed = false } = part;
    const [tokens, count] = [dimension(x, 0), dimension(x, 1)];
    const [N, K] = weight.shape;
    const out = into ?? this.empty([tokens, count, transposed ? K : taken]);
    this.#stream.launch({ op: 'head_linear', out, x, weight, headRows: N / count, firstRow, transposed });
    return out;
  }

  /** act(gate) · up, both [T, I]; the limits are those of the operation. */
  gated(gate: Tensor, up: Tensor, activation: Activation, { limit = 0, limitAfter = false } = {}): Tensor {
    const out = this.empty(gate.shape);
    this.#stream.launch({ op: 'gated', out, gate, up, activation, limit, limitAfter });
    return out;
  }

  /** x *= sigmoid(gate), where a gate of 1 as its last dimension counts for a whole row. */
  gateSigmoid(x: Tensor, gate: Tensor): void {
    this.#stream.launch({ op: 'gate_sigmoid', x, gate });
  }

  /** The `count` best experts per row of f32 logits [T, E]: see RouteRule. */
  route(logits: Tensor, count: number, rule: RouteRule, options: RouteOptions = {}): Routing {
    const { bias = null, expertScale = null, named } = options;
    const shape = [dimension(logits, 0), count];
    const routing = { experts: this.#workspace.allocate(shape, 'i32'), weights: this.floats(shape) };
    const { table = null, rows: of = null } = named ?? {};
    this.#stream.launch({ op: 'route', ...routing, logits, bias, expertScale, table, rows: of, rule });
    return routing;
  }

  /** x [T, K] or [T · k, K] through the chosen ones of `weights`, one per expert → [T · k, N]. */
  expertLinear(x: Tensor, routing: Routing, from: ExpertWeights): Tensor {
    const { experts, weights, slots } = this.#chosen.bring(x, routing, from);
    const choices = dimension(experts, 0) * dimension(experts, 1);
    const out = this.empty([choices, present(weights[0], 'an expert').shape[0]]);
    this.#stream.launch({ op: 'expert_linear', out, x, experts, weights, slots });
    if (weights[0]?.isPartial) this.#sums.mark(out);
    return out;
  }

  /** Adds to each choice's row of x [T · k, N] that of its expert in bias [E, N]. */
  expertBias(x: Tensor, { experts }: Routing, bias: Tensor): void {
    if (this.#sums.isMarked(x) && !this.#sums.addsBias) return;
    this.#stream.launch({ op: 'expert_bias', x, experts: this.#chosen.left(experts), bias });
  }

  /** [R, I] of neighbouring pairs of x [R, 2·I]: see the operation `gated_pairs`. */
  gatedPairs(x: Tensor, alpha: number, limit: number): Tensor {
    const out = this.empty([dimension(x, 0), dimension(x, 1) / 2]);
    this.#stream.launch({ op: 'gated_pairs', out, x, alpha, limit });
    return out;
  }

  /** [T, H]: the sum of each token's k rows of y [T · k, H], as the routing weighs them or all alike; added to x where that is given. */
  combine(
    y: Tensor,
    { experts, weights }: Routing,
    { addTo, weighted = true }: { readonly addTo?: Tensor | undefined; readonly weighted?: boolean } = {},
  ): Tensor {
    const x = addTo ?? this.empty([dimension(experts, 0), dimension(y, 1)]);
    this.#chosen.take(y, experts);
    const accumulate = addTo !== undefined;
    this.#sums.combine({ op: 'combine', x, y, weights: weighted ? weights : null, accumulate });
    return x;
  }

  /** Each choice's row of x [T · k, N] times its weight. */
  scaleChoices(x: Tensor, { weights }: Routing): void {
    this.#stream.launch({ op: 'scale_rows', x, weights });
  }

  /** Channels of x [T, G, D] along their sequences, with weight [C, W] of C = G · D → `out` [T, G, D]. */
  causalConv(x: Tensor, weight: Tensor, out: Tensor, options: ConvolutionOptions): Tensor {
    const { state, bias = null, activation = 'none' } = options;
    const { tables } = present(this.#states, 'states of the block');
    this.#stream.launch({ op: 'causal_conv', out, x, weight, bias, state, tables, activation });
    return out;
  }

  /** A recurrence along each sequence: q, k [T, Hk, Dk] and v [T, Hv, Dv] → [T, Hv, Dv]. */
  stateScan(q: Tensor, k: Tensor, v: Tensor, options: ScanOptions): Tensor {
    const out = this.empty(v.shape);
    const { step, beta = null, stepBias, decay, skip = null, state } = options;
    const { minStep = 0, maxStep = Number.POSITIVE_INFINITY, normEps = 0, queryScale = 1 } = options;
    const { tables } = present(this.#states, 'states of the block');
    const numbers = { minStep, maxStep, normEps, queryScale };
    this.#stream.launch({
      op: 'state_scan',
      ...{ out, q, k, v, step, beta, stepBias, decay, skip, state, tables },
      ...numbers,
    });
    return out;
  }

  /** The norm of x with a gate behind it, or before it: see the operation `gated_rms`. */
  gatedRms(x: Tensor, gate: Tensor, weight: Tensor, options: { eps: number; gateFirst: boolean }): Tensor {
    const out = this.empty(x.shape);
    this.#stream.launch({ op: 'gated_rms', out, x, gate, weight, ...options });
    return out;
  }

  /** Entries of the runs of tokens that end here, of values and gates f32 [T, S, D]: see the operation `compress`. */
  compress(values: Tensor, gates: Tensor, options: CompressOptions): void {
    const { tables } = present(this.#states, 'states of the block');
    this.#stream.launch({ op: 'compress', values, gates, ...options, tables });
  }

  /** q [T, heads, D] over the window that the block keeps, k f32 [T, D] and the block's entries → [T, heads, D]. */
  windowAttention(q: Tensor, k: Tensor, options: WindowOptions): Tensor {
    const out = this.empty(q.shape);
    const { tables } = present(this.#states, 'states of the block');
    this.#stream.launch({ op: 'window_attention', out, q, k, ...options, tables });
    return out;
  }

  /** How n streams are read and written, of logits [T, 2n + n²]; of logits [T, n] only how they are read. */
  hyperWeights(logits: Tensor, streams: number, options: HyperOptions): HyperWeights {
    const T = dimension(logits, 0);
    const writes = dimension(logits, 1) > streams;
    const gather = this.floats([T, streams]);
    const spread = writes ? this.floats([T, streams]) : null;
    const mix = writes ? this.floats([T, streams, streams]) : null;
    this.#stream.launch({ op: 'hyper_weights', gather, spread, mix, logits, ...options });
    return { gather, spread, mix };
  }

  /** [T, H] f32: the streams of x [T, n · H] as they are weighed. */
  hyperGather(x: Tensor, { gather }: HyperWeights): Tensor {
    const [T, streams] = [dimension(gather, 0), dimension(gather, 1)];
    const H = dimension(x, 1) / streams;
    const out = this.floats([T, H]);
    const y = reshaped(x, [T * streams, H]);
    this.#stream.launch({ op: 'combine', x: out, y, weights: gather, accumulate: false });
    return out;
  }

  /** The streams of x [T, n · H] are mixed with each other, and y [T, H] is added to each. */
  hyperMix(x: Tensor, y: Tensor, { spread, mix }: HyperWeights): void {
    const [T, H] = [dimension(y, 0), dimension(y, 1)];
    const streams = reshaped(x, [T, dimension(x, 1) / H, H]);
    const written = { spread: present(spread, 'what streams get'), mix: present(mix, 'what they give') };
    this.#stream.launch({ op: 'hyper_mix', x: streams, y, ...written });
  }

  /** i32 [T]: the tokens themselves. */
  tokens(): Tensor {
    return present(this.#tables?.tokens, 'tokens');
  }

  add(a: Tensor, b: Tensor, out = this.empty(a.shape)): Tensor {
    this.#stream.launch({ op: 'add', out, a, b });
    return out;
  }

  /** x = (x + b) · factor, which is a weight [1]. */
  addAndScale(x: Tensor, b: Tensor, factor: Tensor): void {
    this.#stream.launch({ op: 'add', out: x, a: x, b, factor });
  }

  /** Rotates x [T, heads, D] in place by the tokens' positions. */
  rotary(
    x: Tensor,
    inverseFrequencies: Tensor,
    options: { interleaved?: boolean; scale?: number } = {},
  ): void {
    const { interleaved = false, scale = 1 } = options;
    const { positions } = present(this.#tables, 'attention tables');
    this.#stream.launch({ op: 'rotary', x, positions, inverseFrequencies, interleaved, scale });
  }

  /** Rotates each sequence of x by the row of the table that its length picks; neighbours of one row go together. */
  rotaryByLength(
    x: Tensor,
    table: Tensor,
    { pairs, firstLength }: FrequenciesByLength,
    options: { interleaved?: boolean; scale?: number } = {},
  ): void {
    const { interleaved = false, scale = 1 } = options;
    const { positions } = present(this.#tables, 'attention tables');
    const lastRow = dimension(table, 0) / pairs - 1;
    for (const run of runsOfLengths(this.#lengths, firstLength, lastRow)) {
      this.#stream.launch({
        op: 'rotary',
        x: rows(x, run.first, run.count),
        positions: rows(positions, run.first, run.count),
        inverseFrequencies: rows(table, run.row * pairs, pairs),
        interleaved,
        scale,
      });
    }
  }

  /**
   * Stores k [T, kvHeads, D] and v [T, kvHeads, Dv] in the cache, then attends with q [T, heads, D] → [T, heads · Dv]. `v` is
   * null where values lie in keys, and so is `k` where the cache is another block's.
   */
  attention(q: Tensor, k: Tensor | null, v: Tensor | null, score: ScoreRule): Tensor {
    const tables = present(this.#tables, 'attention tables');
    const { cache, ...pages } = present(this.#cache, 'key and value cache');
    assert(isKept(cache, score), 'a block reads no more positions than its cache keeps');
    const [tokens, count] = [dimension(q, 0), dimension(q, 1)];
    const flat = this.empty([tokens, count * cache.valueDim]);
    if (k) this.#stream.launch({ op: 'kv_store', k, v, ...pages, slots: tables.slots });
    const out = heads(flat, count, cache.valueDim);
    this.#stream.launch({ op: 'attention', out, q, ...pages, tables, score });
    return flat;
  }

  /** Scales queries [T, heads, D] in place by the tokens' positions. */
  scaleByPosition(x: Tensor, { beta, offset, length }: PositionScale): void {
    const { positions } = present(this.#tables, 'attention tables');
    this.#stream.launch({ op: 'position_scale', x, positions, beta, offset, length });
  }

  clamp(x: Tensor, limit: number): void {
    this.#stream.launch({ op: 'clamp', x, limit });
  }

  scaleCap(x: Tensor, scale: number, softCap: number): void {
    this.#stream.launch({ op: 'scale_cap', x, scale, softCap });
  }

  /** Notes the place of the forward for rows of x [T, H] that are not finite; `first` where nothing was noted before. */
  noteNotFinite(found: Tensor, x: Tensor, place: number, first: boolean): void {
    this.#stream.launch({ op: 'note_not_finite', found, x, place, first });
  }

  argmax(logits: Tensor, out: Tensor): void {
    this.#stream.launch({ op: 'argmax', out, logits });
  }

  /** Draws a token per row of logits [R, V]. */
  sample(logits: Tensor, out: Tensor, tables: SamplingTables): void {
    this.#stream.launch({ op: 'sample', out, logits, tables });
  }

  nllFold(state: Tensor, logits: Tensor, targets: Tensor, { firstColumn, first }: Fold): void {
    this.#stream.launch({ op: 'nll_fold', state, logits, targets, firstColumn, first });
  }
}
