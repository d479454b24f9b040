// Products with matrices of which the host has some rows: neighbours of one input are asked for together, and then taken.

import { present } from '../errors.js';
import type { OpStream } from '../port/backend.js';
import { type Op, spanBytes, type Tensor, type Weight } from '../port/ops.js';
import { columns, dimension, rows } from '../port/tensor.js';
import type { HostProducts, SplitWeight } from './forward-options.js';

type LinearOp = Extract<Op, { op: 'linear' }>;

interface Waiting {
  readonly x: Tensor;
  readonly host: HostProducts;
  readonly products: { readonly op: LinearOp; readonly weight: SplitWeight }[];
}

function isSplit(weight: Weight): weight is SplitWeight {
  return 'there' in weight;
}

/** A stream's operations. Split products wait until something else is to run, so that the host hears once of all that read the same. */
export class SplitProducts implements OpStream {
  readonly #stream: OpStream;
  #waiting: Waiting | undefined;

  constructor(stream: OpStream) {
    this.#stream = stream;
  }

  launch(op: Op): void {
    this.flush();
    this.#stream.launch(op);
  }

  multiply(op: LinearOp): void {
    const { x, weight } = op;
    if (!isSplit(weight)) {
      this.launch(op);
      return;
    }
    if (!this.#waiting || !this.#joins(op, weight)) {
      this.flush();
      this.#waiting = { x, host: weight.there.host, products: [] };
    }
    this.#waiting.products.push({ op, weight });
  }

  /** The device multiplies with its rows while the host does with the others. */
  flush(): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    this.#waiting = undefined;
    const { x, host, products } = waiting;
    const asked = products.map(({ op, weight }) => ({
      rows: weight.there,
      bias: op.bias,
      activation: op.activation,
    }));
    const { ask, results } = host.ask(x, asked);
    this.#stream.launch(ask);
    for (const { op, weight } of products) {
      if (!weight.here) continue;
      const [count] = weight.here.shape;
      const bias = op.bias && rows(op.bias, 0, count);
      this.#stream.launch({ ...op, out: columns(op.out, 0, count), weight: weight.here, bias });
    }
    for (const [index, { op, weight }] of products.entries()) {
      const result = present(results[index], 'a result');
      const [count] = weight.there.weight.shape;
      const out = columns(op.out, weight.shape[0] - count, count);
      if (!op.accumulate) {
        this.#stream.launch(host.take(out, result));
        continue;
      }
      const taken = host.room([dimension(x, 0), count]);
      this.#stream.launch(host.take(taken, result));
      this.#stream.launch({ op: 'add', out, a: out, b: taken });
    }
  }

  #joins({ x, out }: LinearOp, { there }: SplitWeight): boolean {
    const { x: before, host, products } = present(this.#waiting, 'what waits');
    // Who writes what the others read, or writes where another does, runs when they have.
    const outs = products.map(({ op }) => op.out);
    return host === there.host && isSameView(before, x) && ![x, ...outs].some((one) => mayOverlap(one, out));
  }
}

function isSameView(a: Tensor, b: Tensor): boolean {
  const isSame = (one: readonly number[], other: readonly number[]) =>
    one.length === other.length && one.every((value, index) => value === other[index]);
  return (
    a.memory === b.memory &&
    a.offsetBytes === b.offsetBytes &&
    a.dtype === b.dtype &&
    isSame(a.shape, b.shape) &&
    isSame(a.strides, b.strides)
  );
}

function mayOverlap(a: Tensor, b: Tensor): boolean {
  return (
    a.memory === b.memory &&
    a.offsetBytes < b.offsetBytes + spanBytes(b) &&
    b.offsetBytes < a.offsetBytes + spanBytes(a)
  );
}
