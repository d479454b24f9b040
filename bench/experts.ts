// How near do the CPU's products with the few experts that a token chose come to reading their bytes once?
//
// node dist/bench/experts.js [--runs 9] [--threads N] [--tokens 1,4,16] [--chosen 1,4] [--formats mxfp4,bf16] [--isa avx2] [--apart]
//
// What a block of a mixture asks for: gate and up (two products with --apart, as most checkpoints store them), the gate, down and the
// sum over the chosen ones, with experts that are cold: each
// run passes over more memory than caches hold. Sizes are those of a published model. The rate counts the stored bytes of the
// experts that are chosen, and its limit is measured beside every run.

import { parseArgs } from 'node:util';
import { encodeOp, joinEncoded } from '../offload/backends/op-encoding.js';
import { present } from '../offload/errors.js';
import { DTYPE_BYTES, type DType, elementCount } from '../offload/port/dtype.js';
import { type Format, formatOf, type PartName } from '../offload/port/formats.js';
import type { Op, Tensor, Weight } from '../offload/port/ops.js';
import { columns, tensor } from '../offload/port/tensor.js';
import { median, percent, printResult } from './common.js';
import { coldBytes, openProducts } from './cpu-products.js';
import { randomFrom, randomInt } from './random.js';

const WEIGHT_BYTES = coldBytes(640 * 2 ** 20);
/** Codes and scales of any type are small numbers when all their bytes are this. */
const BYTE = 0x3c;

interface Stored {
  readonly hidden: number;
  readonly between: number;
  readonly format: Format;
  parts(
    outputs: number,
    inputs: number,
  ): { readonly [Name in PartName]?: readonly [DType, readonly number[]] };
}
const STORED: Readonly<Record<string, Stored>> = {
  mxfp4: {
    hidden: 2880,
    between: 2880,
    format: formatOf('fp4', 'bf16', { inputGroup: 32, product: 'f32' }),
    parts: (n, k) => ({ codes: ['u8', [n, k / 2]], scales: ['e8m0', [n, k / 32]] }),
  },
  int4: {
    hidden: 2048,
    between: 768,
    format: formatOf('packed4', 'bf16', { inputGroup: 64 }),
    parts: (n, k) => ({ codes: ['i32', [n, k / 8]], scales: ['bf16', [n, k / 64]] }),
  },
  fp8: {
    hidden: 3072,
    between: 1536,
    format: formatOf('e4m3', 'bf16', { rowGroup: 128, inputGroup: 128, product: 'f32' }),
    parts: (n, k) => ({ codes: ['e4m3', [n, k]], scales: ['f32', [n / 128, k / 128]] }),
  },
  bf16: {
    hidden: 2048,
    between: 768,
    format: formatOf('dense', 'bf16'),
    parts: (n, k) => ({ codes: ['bf16', [n, k]] }),
  },
};

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '9' },
    threads: { type: 'string', default: '0' },
    tokens: { type: 'string', default: '1' },
    chosen: { type: 'string', default: '1,4' },
    isa: { type: 'string' },
    formats: { type: 'string', default: Object.keys(STORED).join(',') },
    apart: { type: 'boolean', default: false },
  },
});
const { addon, threads, readBytes, stream, allocate } = openProducts(values);
const memory = allocate(WEIGHT_BYTES);
new Uint8Array(memory.view(0, WEIGHT_BYTES)).fill(BYTE);
const activations = allocate(2 ** 26);

/** The weights of as many experts as fit, gate and up in one, and the bytes of an expert. */
function layOut({ hidden, between, format, parts }: Stored) {
  const all: { readonly ups: readonly Weight[]; readonly down: Weight }[] = [];
  let at = 0;
  const place = (outputs: number, inputs: number): Weight => {
    const placed: Partial<Record<PartName, Tensor>> = {};
    for (const [name, [dtype, shape]] of Object.entries(parts(outputs, inputs))) {
      placed[name as PartName] = tensor(memory, at, dtype, shape);
      at += Math.ceil((elementCount(shape) * DTYPE_BYTES[dtype]) / 64) * 64;
    }
    return { format, shape: [outputs, inputs], firstRow: 0, parts: placed };
  };
  for (let bytes = 0; at + bytes <= WEIGHT_BYTES; bytes = at / all.length) {
    const ups = values.apart
      ? [place(between, hidden), place(between, hidden)]
      : [place(2 * between, hidden)];
    all.push({ ups, down: place(hidden, between) });
  }
  return { all, bytes: at / all.length };
}

let used = 0;
const inActivations = (dtype: DType, shape: readonly number[]): Tensor => {
  const at = used;
  used += Math.ceil((elementCount(shape) * DTYPE_BYTES[dtype]) / 64) * 64;
  return tensor(activations, at, dtype, shape);
};

/** Blocks of `tokens` tokens, each of which chooses `chosen` of these experts: all choose alike, so that no more are read. */
function blocksOf(
  stored: Stored,
  all: ReturnType<typeof layOut>['all'],
  tokens: number,
  chosen: number,
): Float64Array[] {
  const random = randomFrom(tokens * 100 + chosen);
  const order = all.map((_, index) => index);
  for (let i = order.length - 1; i > 0; i--) {
    const j = randomInt(random, i + 1);
    [order[i], order[j]] = [present(order[j], 'a place'), present(order[i], 'a place')];
  }
  used = 0;
  const choices = tokens * chosen;
  const x = inActivations('f32', [tokens, stored.hidden]);
  const ups = values.apart
    ? [0, 1].map(() => inActivations('f32', [choices, stored.between]))
    : [inActivations('f32', [choices, 2 * stored.between])];
  const first = present(ups[0], 'outputs');
  const gate = columns(first, 0, stored.between);
  const up = ups[1] ?? columns(first, stored.between, stored.between);
  const between = inActivations('f32', [choices, stored.between]);
  const down = inActivations('f32', [choices, stored.hidden]);
  const experts = inActivations('i32', [tokens, chosen]);
  const numbers = new Int32Array(activations.view(experts.offsetBytes, choices * 4));
  numbers.forEach((_, index) => {
    numbers[index] = index % chosen;
  });
  const blocks: Float64Array[] = [];
  for (let at = 0; at + chosen <= order.length; at += chosen) {
    const weights = order.slice(at, at + chosen).map((index) => present(all[index], 'an expert'));
    const products = ups.map(
      (out, which): Op => ({
        op: 'expert_linear',
        out,
        x,
        experts,
        weights: weights.map((each) => present(each.ups[which], 'a weight')),
      }),
    );
    const ops: Op[] = [
      ...products,
      {
        op: 'gated',
        out: between,
        gate,
        up,
        activation: 'silu',
        limit: 0,
        limitAfter: false,
      },
      { op: 'expert_linear', out: down, x: between, experts, weights: weights.map((each) => each.down) },
      { op: 'combine', x, y: down, weights: null, accumulate: false },
    ];
    blocks.push(joinEncoded(ops.map((op) => encodeOp(op).slice())));
  }
  return blocks;
}

/** Seconds per block of the second half, whose operations are read and checked while the first half runs. */
async function blockSeconds(blocks: readonly Float64Array[]): Promise<number> {
  const half = Math.floor(blocks.length / 2);
  const launch = (some: readonly Float64Array[]) => {
    const words = new Float64Array(some.reduce((sum, each) => sum + each.length, 0));
    let at = 0;
    for (const each of some) {
      words.set(each, at);
      at += each.length;
    }
    stream.launchAll(words);
  };
  launch(blocks.slice(0, half));
  const start = stream.record();
  launch(blocks.slice(half));
  const end = stream.record();
  await end.promise();
  return (end.timeMs - start.timeMs) / 1e3 / (blocks.length - half);
}

const runs = Number(values.runs);
for (const name of values.formats.split(',')) {
  const stored = present(STORED[name], `format ${name}`);
  const { all, bytes } = layOut(stored);
  for (const tokens of values.tokens.split(',').map(Number)) {
    for (const chosen of values.chosen.split(',').map(Number)) {
      const blocks = blocksOf(stored, all, tokens, chosen);
      await blockSeconds(blocks);
      const ofRead: number[] = [];
      const seconds: number[] = [];
      for (let run = 0; run < runs; run++) {
        const before = addon.measureReadBandwidth(readBytes, threads);
        const took = await blockSeconds(blocks);
        const after = addon.measureReadBandwidth(readBytes, threads);
        seconds.push(took);
        ofRead.push((chosen * bytes) / took / ((before + after) / 2));
      }
      printResult(
        `experts ${name} T=${tokens} chosen=${chosen}`,
        `${(median(seconds) * 1e6).toFixed(0)} µs a block, ${percent(median(ofRead))} of read bandwidth in stored bytes`,
        { threads, isa: values.isa ?? 'default', bytes: chosen * bytes, seconds, ofRead },
      );
    }
  }
}
stream.close();
