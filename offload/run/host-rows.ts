// Rows of a device's layers that its host multiplies: where inputs and results lie, and the questions that were asked before.

import { assert, present } from '../errors.js';
import { type CutLayer, weightOfRows } from '../model/cut-layer.js';
import type { HostProduct, HostProducts, HostRows } from '../model/forward-options.js';
import type { CopyPiece, TensorSpec } from '../model/layout.js';
import { placeIn, type SplitOf } from '../model/weights.js';
import type { PlannedLayer, RowsPlan } from '../plan/plan.js';
import {
  type Backend,
  DEVICE_ALIGNMENT_BYTES,
  type Device,
  type HostMemory,
  type HostWorker,
} from '../port/backend.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import { type HostMail, MAIL_STATE_WORDS, MAIL_WORDS } from '../port/host-ops.js';
import type { Memory, Op, Tensor } from '../port/ops.js';
import { dimension, rows, tensor } from '../port/tensor.js';
import type { RowsApart } from '../stream/row-share.js';

export interface DeviceRowsOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly rows: RowsPlan;
}

/** What a host does and where its result lies. */
interface Question {
  readonly job: number;
  readonly input: Tensor;
  readonly results: readonly Tensor[];
}

/** The rows that stay of a layer, in one of its cuts. */
interface Cut {
  readonly rows: ReadonlyMap<string, OwnRows>;
  readonly questions: Map<string, Question>;
}

interface OwnRows extends HostRows {
  readonly key: string;
  readonly cut: Cut;
}

export class DeviceRows implements HostProducts {
  readonly #worker: HostWorker;
  readonly #mail: HostMail;
  readonly #inputs: HostMemory;
  readonly #results: HostMemory;
  /** Words beside the mailbox, and from the first aligned place on room for a result. */
  readonly #memory: Memory;
  readonly #cuts = new Map<PlannedLayer, { readonly of: CutLayer; readonly cut: Cut }>();

  constructor({ backend, device, rows: { inputBytes, resultBytes, deviceBytes } }: DeviceRowsOptions) {
    this.#worker = backend.openWorker(device);
    this.#inputs = backend.allocateHost(inputBytes, 'shared');
    this.#results = backend.allocateHost(resultBytes, 'shared');
    this.#memory = device.allocate(deviceBytes);
    const stateBytes = MAIL_STATE_WORDS * DTYPE_BYTES.i32;
    const zeros = backend.allocateHost(stateBytes, 'control');
    zeros.bytes.fill(0);
    device.compute.copy(this.#memory, 0, zeros, 0, stateBytes);
    this.#mail = {
      words: tensor(this.#worker.mail, 0, 'i32', [MAIL_WORDS]),
      state: tensor(this.#memory, 0, 'i32', [MAIL_STATE_WORDS]),
    };
  }

  /** Between these the host may be asked. */
  beginPass(): void {
    this.#worker.begin();
  }

  endPass(): void {
    this.#worker.end();
  }

  /** Why the host could not multiply; empty while it could. */
  get hostFailure(): string {
    return this.#worker.failure;
  }

  /**
   * The matrices of a layer of which some rows stay, by key.
   * @param place says where tensors of the whole layer would lie on the device
   */
  split(layer: PlannedLayer, apart: RowsApart, place: (tensor: TensorSpec) => Tensor): SplitOf {
    const { cut } = apart;
    const own = this.#cutOf(layer, apart);
    return (key) => {
      const there = own.rows.get(key);
      if (!there) return undefined;
      const travels = cut.matrices.get(key)?.travels;
      const here = travels ? weightOfRows(cut, travels, place) : null;
      const { format, shape, firstRow } = there.weight;
      const [count, K] = shape;
      const whole = { format, firstRow, parts: {}, ...here };
      return { ...whole, shape: [(here?.shape[0] ?? 0) + count, K], here, there };
    };
  }

  ask(
    x: Tensor,
    products: readonly HostProduct[],
  ): { readonly ask: Op; readonly results: readonly Tensor[] } {
    const { job, input, results } = this.#questionOf(x, products);
    return { ask: { op: 'ask_host', from: x, to: input, mail: this.#mail, job }, results };
  }

  take(out: Tensor, from: Tensor): Op {
    return { op: 'take_host', out, from, choices: null, mail: this.#mail };
  }

  room(shape: readonly [number, number]): Tensor {
    const bytes = elementCount(shape) * DTYPE_BYTES.f32;
    assert(DEVICE_ALIGNMENT_BYTES + bytes <= this.#memory.sizeBytes, 'a result has the planned size');
    return tensor(this.#memory, DEVICE_ALIGNMENT_BYTES, 'f32', shape);
  }

  #questionOf(x: Tensor, products: readonly HostProduct[]): Question {
    const first = ownRows(present(products[0], 'a product'));
    const { questions } = first.cut;
    const name = [dimension(x, 0), ...products.map(nameOf)].join(' ');
    const before = questions.get(name);
    if (before) return before;
    const input = tensor(this.#inputs, 0, 'f32', [dimension(x, 0), dimension(x, 1)]);
    let used = 0;
    const results: Tensor[] = [];
    const ops = products.map((product): Op => {
      const { weight } = product.rows;
      const [count] = weight.shape;
      const out = tensor(this.#results, used, 'f32', [dimension(x, 0), count]);
      used += elementCount(out.shape) * DTYPE_BYTES.f32;
      results.push(out);
      const { bias, activation } = product;
      const last = bias && rows(product.rows.inHost(bias), dimension(bias, 0) - count, count);
      return { op: 'linear', out, x: input, weight, bias: last, activation, accumulate: false };
    });
    assert(used <= this.#results.sizeBytes, 'results have the planned size');
    const question = { job: this.#worker.define(ops), input, results };
    questions.set(name, question);
    return question;
  }

  /** Those of a share that is no more are forgotten. */
  #cutOf(layer: PlannedLayer, { cut: of, home }: RowsApart): Cut {
    const { layout } = layer;
    const before = this.#cuts.get(layer);
    if (before?.of === of) return before.cut;
    for (const { job } of before?.cut.questions.values() ?? []) this.#worker.forget(job);
    const place = placeIn(home, layout.host.placements);
    const inHost = (vector: Tensor) => ({
      ...vector,
      memory: home,
      offsetBytes: hostOffset(layout.device.copies, vector.offsetBytes),
    });
    const own = new Map<string, OwnRows>();
    const cut: Cut = { rows: own, questions: new Map() };
    for (const [key, { stays }] of of.matrices) {
      if (!stays) continue;
      own.set(key, { key, cut, weight: weightOfRows(of, stays, place), host: this, inHost });
    }
    this.#cuts.set(layer, { of, cut });
    return cut;
  }
}

function ownRows({ rows: of }: HostProduct): OwnRows {
  assert('cut' in of, 'rows of this device');
  return of as OwnRows;
}

function nameOf(product: HostProduct): string {
  const { bias, activation } = product;
  return `${ownRows(product).key}|${activation}|${bias ? bias.offsetBytes : ''}`;
}

/** Where a host buffer has what lies at an offset of a layer on a device. */
function hostOffset(copies: readonly CopyPiece[], offsetBytes: number): number {
  const copy = present(
    copies.find(
      ({ deviceOffset, sizeBytes }) => offsetBytes >= deviceOffset && offsetBytes < deviceOffset + sizeBytes,
    ),
    'a vector of the layer',
  );
  return copy.hostOffset + (offsetBytes - copy.deviceOffset);
}
