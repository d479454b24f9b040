// How near do the CPU's products with stored weights come to reading their bytes once?
//
// node dist/bench/weights.js [--runs 7] [--threads N] [--tokens 1,8,512] [--isa avx2] [--formats int4,fp8]
//
// Products [T, 4096] · [4096, 4096]ᵀ with cold weights: each run passes over more than 256 MB of them. The rate counts stored
// bytes, scales among them; limits are measured beside every run, because neighbours on a shared machine change them.

import { parseArgs } from 'node:util';
import { encodeOp } from '../offload/backends/op-encoding.js';
import { present } from '../offload/errors.js';
import { DTYPE_BYTES, type DType, elementCount } from '../offload/port/dtype.js';
import { type Format, formatOf, type PartName } from '../offload/port/formats.js';
import type { Op, Tensor, Weight } from '../offload/port/ops.js';
import { tensor } from '../offload/port/tensor.js';
import { median, percent, printResult } from './common.js';
import { coldBytes, openProducts } from './cpu-products.js';

const SIZE = 4096;
const WEIGHT_BYTES = coldBytes(320 * 2 ** 20);
/** Codes and scales of any type are small numbers when all their bytes are this. */
const BYTE = 0x3c;
/** A code of e4m3 that has no exponent of its own. */
const SUBNORMAL = 0x03;

interface Stored {
  readonly format: Format;
  readonly parts: { readonly [Name in PartName]?: readonly [DType, readonly number[]] };
  /** One code of so many is SUBNORMAL. */
  readonly subnormalEvery?: number;
}

const packed4 = (group: number): Stored => ({
  format: formatOf('packed4', 'bf16', { inputGroup: group }),
  parts: { codes: ['i32', [SIZE, SIZE / 8]], scales: ['bf16', [SIZE, SIZE / group]] },
});
const e4m3 = (rows: number, inputs: number, scales: DType): Stored => ({
  format: formatOf('e4m3', 'bf16', { rowGroup: rows, inputGroup: inputs, product: 'f32' }),
  parts: { codes: ['e4m3', [SIZE, SIZE]], scales: [scales, [SIZE / rows, SIZE / inputs]] },
});
const STORED: Readonly<Record<string, Stored>> = {
  bf16: { format: formatOf('dense', 'bf16'), parts: { codes: ['bf16', [SIZE, SIZE]] } },
  int4: packed4(64),
  'int4-32': packed4(32),
  'int4-128': packed4(128),
  fp8: e4m3(128, 128, 'f32'),
  'fp8-subnormal': { ...e4m3(128, 128, 'f32'), subnormalEvery: 16 },
  'fp8-row': e4m3(1, SIZE, 'bf16'),
  mxfp8: e4m3(1, 32, 'e8m0'),
  int8: {
    format: formatOf('int8', 'bf16', { inputGroup: SIZE }),
    parts: { codes: ['i8', [SIZE, SIZE]], scales: ['bf16', [SIZE, 1]] },
  },
  mxfp4: {
    format: formatOf('fp4', 'bf16', { inputGroup: 32, product: 'f32' }),
    parts: { codes: ['u8', [SIZE, SIZE / 2]], scales: ['e8m0', [SIZE, SIZE / 32]] },
  },
  nvfp4: {
    format: formatOf('fp4', 'bf16', { inputGroup: 16, product: 'f32' }),
    parts: {
      codes: ['u8', [SIZE, SIZE / 2]],
      scales: ['e4m3', [SIZE, SIZE / 16]],
      global: ['f32', [1]],
    },
  },
  nf4: {
    format: formatOf('table4', 'bf16', { inputGroup: 64, product: 'f32' }),
    parts: {
      codes: ['u8', [(SIZE * SIZE) / 2]],
      scales: ['f32', [(SIZE * SIZE) / 64]],
      table: ['f32', [16]],
    },
  },
  awq: {
    format: formatOf('awq', 'bf16', { inputGroup: 128, product: 'f16', bits: 4 }),
    parts: {
      codes: ['i32', [SIZE, SIZE / 8]],
      scales: ['f16', [SIZE / 128, SIZE]],
      zeros: ['i32', [SIZE / 128, SIZE / 8]],
    },
  },
  gptq: {
    format: formatOf('gptq', 'bf16', { inputGroup: 128, product: 'f16', bits: 4 }),
    parts: {
      codes: ['i32', [SIZE / 8, SIZE]],
      scales: ['f16', [SIZE / 128, SIZE]],
      zeros: ['i32', [SIZE / 128, SIZE / 8]],
    },
  },
};

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '7' },
    threads: { type: 'string', default: '0' },
    tokens: { type: 'string', default: '1,8,512' },
    isa: { type: 'string' },
    formats: { type: 'string', default: Object.keys(STORED).join(',') },
  },
});
const runs = Number(values.runs);
const tokenCounts = values.tokens.split(',').map(Number);
const { addon, threads, readBytes, stream, allocate } = openProducts(values);
const weights = allocate(WEIGHT_BYTES);
const activations = allocate(2 * Math.max(...tokenCounts) * SIZE * 4);
const weightBytes = new Uint8Array(weights.view(0, WEIGHT_BYTES));

/** As many weights as fit, and the bytes of one. */
function layOut(stored: Stored): { readonly all: readonly Weight[]; readonly bytes: number } {
  const { format, parts, subnormalEvery } = stored;
  weightBytes.fill(BYTE);
  const sizes = Object.values(parts).map(([dtype, shape]) => elementCount(shape) * DTYPE_BYTES[dtype]);
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  const all: Weight[] = [];
  for (let at = 0; at + bytes <= WEIGHT_BYTES; ) {
    const placed: Partial<Record<PartName, Tensor>> = {};
    for (const [name, [dtype, shape]] of Object.entries(parts)) {
      placed[name as PartName] = tensor(weights, at, dtype, shape);
      const end = at + elementCount(shape) * DTYPE_BYTES[dtype];
      if (subnormalEvery && name === 'codes') {
        for (let i = at; i < end; i += subnormalEvery) weightBytes[i] = SUBNORMAL;
      }
      at = end;
    }
    all.push({ format, shape: [SIZE, SIZE], firstRow: 0, parts: placed });
  }
  return { all, bytes };
}

/** Seconds per product over `count` products, each with other weights. */
async function productSeconds(all: readonly Weight[], tokens: number, count: number): Promise<number> {
  const op: Omit<Extract<Op, { op: 'linear' }>, 'weight'> = {
    op: 'linear',
    out: tensor(activations, 0, 'f32', [tokens, SIZE]),
    x: tensor(activations, activations.sizeBytes / 2, 'f32', [tokens, SIZE]),
    bias: null,
    activation: 'none',
    accumulate: false,
  };
  const start = stream.record();
  for (let i = 0; i < count; i++) {
    stream.launch(encodeOp({ ...op, weight: present(all[i % all.length], 'a weight') }));
  }
  const end = stream.record();
  await end.promise();
  return (end.timeMs - start.timeMs) / 1e3 / count;
}

const dense = layOut(present(STORED.bf16, 'bf16'));
for (const name of values.formats.split(',')) {
  const { all, bytes } = layOut(present(STORED[name], `format ${name}`));
  for (const tokens of tokenCounts) {
    const many = tokens > 8;
    const ofRead: number[] = [];
    const ofDense: number[] = [];
    const seconds: number[] = [];
    for (let run = 0; run < runs; run++) {
      const before = addon.measureReadBandwidth(readBytes, threads);
      const took = await productSeconds(all, tokens, many ? 2 : all.length);
      const after = addon.measureReadBandwidth(readBytes, threads);
      const denseTook = await productSeconds(dense.all, tokens, many ? 2 : dense.all.length);
      seconds.push(took);
      ofRead.push(bytes / took / ((before + after) / 2));
      ofDense.push(took / denseTook);
    }
    printResult(
      `linear ${name} T=${tokens}`,
      `${(median(seconds) * 1e3).toFixed(2)} ms, ${percent(median(ofRead))} of read bandwidth in stored bytes, ` +
        `${median(ofDense).toFixed(2)} of the time of bf16 beside it`,
      { threads, isa: values.isa ?? 'default', bytes, seconds, ofRead, ofDense },
    );
  }
}
stream.close();
