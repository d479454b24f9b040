// Products with matrices whose inputs devices share: each makes a summand, and all of them together the sum.

import { assert, present } from '../errors.js';
import type { OpStream } from '../port/backend.js';
import type { Exchange } from '../port/exchange.js';
import type { Op, Tensor } from '../port/ops.js';
import { dimension, tensor } from '../port/tensor.js';
import type { Workspace } from './workspace.js';

type LinearOp = Extract<Op, { op: 'linear' }>;
type CombineOp = Extract<Op, { op: 'combine' }>;

/** Up to so many tokens' sums wait for each other, not for bytes. */
const EXACT_TOKENS = 8;

export class PartialSums {
  readonly #stream: OpStream;
  readonly #workspace: Workspace;
  readonly #exchange: Exchange | undefined;
  /** What experts made of their part of the inputs. */
  readonly #partial = new WeakSet<Tensor>();

  /** @param exchange undefined where a device has whole matrices */
  constructor(stream: OpStream, workspace: Workspace, exchange: Exchange | undefined) {
    this.#stream = stream;
    this.#workspace = workspace;
    this.#exchange = exchange;
  }

  /** One device adds the bias, so that it is in the sum once. */
  linear(op: LinearOp): void {
    assert(op.activation === 'none', 'a product in summands has no activation');
    const partial = this.#summand(op.out, op.weight.format.type);
    this.#stream.launch({ ...op, out: partial, bias: this.addsBias ? op.bias : null, accumulate: false });
    this.#sum(op.out, partial, op.accumulate);
  }

  /** Sums over a token's experts are linear as well: devices sum what those give. */
  combine(op: CombineOp): void {
    if (!this.#partial.has(op.y)) {
      this.#stream.launch(op);
      return;
    }
    const partial = this.#summand(op.x);
    this.#stream.launch({ ...op, x: partial, accumulate: false });
    this.#sum(op.x, partial, op.accumulate);
  }

  /** What experts give is summed when it is combined. */
  mark(y: Tensor): void {
    this.#partial.add(y);
  }

  isMarked(y: Tensor): boolean {
    return this.#partial.has(y);
  }

  get addsBias(): boolean {
    return this.#end.rank === 0;
  }

  get #end(): Exchange {
    return present(this.#exchange, 'what devices sum through');
  }

  /**
   * Few tokens' are not rounded before they are summed. Those of many take long on the way, and half as long where all activations
   * are rounded to the same 16 bits; f16 may not hold a summand of what it holds. Either has room, so that fewer tokens never take more.
   * @param type which values of the weight are multiplied: a product writes that one, or f32
   */
  #summand({ shape }: Tensor, type = this.#workspace.activationType): Tensor {
    const exact = this.#workspace.allocate(shape, 'f32');
    const rounds =
      type === 'bf16' && this.#workspace.activationType === type && dimension(exact, 0) > EXACT_TOKENS;
    return rounds ? tensor(exact.memory, exact.offsetBytes, 'bf16', shape) : exact;
  }

  #sum(x: Tensor, partial: Tensor, accumulate: boolean): void {
    this.#stream.launch({ op: 'reduce', x, partial, exchange: this.#end, accumulate });
  }
}
