// How near do the CPU's products come to what memory and registers allow?
//
// node dist/bench/kernels.js [--runs 7] [--threads N] [--tokens 1,8,512] [--isa avx512bf16] [--libraries out/bench/products]
//
// With `--libraries` (see bench/peers/products.cc) products of installed libraries are timed beside every run.
// Products [T, 4096] · [4096, 4096]ᵀ with cold weights: each run passes over more than 256 MB of them. Limits are
// measured beside every run, because neighbours on a shared machine change them from one second to the next.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { encodeOp } from '../offload/backends/op-encoding.js';
import { DTYPE_BYTES, type DType } from '../offload/port/dtype.js';
import type { Op } from '../offload/port/ops.js';
import { tensor } from '../offload/port/tensor.js';
import { denseWeight } from '../offload/port/weights.js';
import { median, printResult } from './common.js';
import { coldBytes, openProducts } from './cpu-products.js';

const SIZE = 4096;
const WEIGHT_BYTES = coldBytes(320 * 2 ** 20);
const TYPES: readonly DType[] = ['f32', 'f16', 'bf16'];

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '7' },
    threads: { type: 'string', default: '0' },
    tokens: { type: 'string', default: '1,2,4,8,64,512' },
    isa: { type: 'string' },
    libraries: { type: 'string' },
  },
});
const runs = Number(values.runs);
const TOKENS = values.tokens.split(',').map(Number);
const { addon, threads, readBytes, stream, allocate } = openProducts(values);
const weights = allocate(WEIGHT_BYTES);
const activations = allocate(2 * Math.max(...TOKENS) * SIZE * 4);

/** Seconds per product over `count` products, each with other weights. */
async function productSeconds(
  dtype: DType,
  tokens: number,
  inputMajor: boolean,
  count: number,
): Promise<number> {
  const matrixBytes = SIZE * SIZE * DTYPE_BYTES[dtype];
  const matrices = Math.floor(WEIGHT_BYTES / matrixBytes);
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
    const stored = tensor(weights, (i % matrices) * matrixBytes, dtype, [SIZE, SIZE]);
    const weight = denseWeight(stored, inputMajor);
    stream.launch(encodeOp({ ...op, weight }));
  }
  const end = stream.record();
  await end.promise();
  return (end.timeMs - start.timeMs) / 1e3 / count;
}

/** Seconds of one product by the fastest library that has it; NaN where none was asked for or has it. */
type LibrarySeconds = (dtype: DType, tokens: number, count: number) => Promise<number>;

function openLibraries(path: string | undefined): { readonly seconds: LibrarySeconds; close(): void } {
  if (path === undefined) return { seconds: async () => Number.NaN, close: () => undefined };
  const child = spawn(path, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (library: string, dtype: DType, tokens: number, count: number) => {
    child.stdin.write(`${library} ${dtype} ${tokens} ${SIZE} ${SIZE} ${count} ${threads}\n`);
    return Number((await lines.next()).value);
  };
  return {
    seconds: async (dtype, tokens, count) => {
      const took = [await ask('openblas', dtype, tokens, count), await ask('onednn', dtype, tokens, count)];
      const present = took.filter((seconds) => !Number.isNaN(seconds));
      return present.length === 0 ? Number.NaN : Math.min(...present);
    },
    close: () => child.stdin.end(),
  };
}

const libraries = openLibraries(values.libraries);
for (const inputMajor of [false, true]) {
  for (const dtype of TYPES) {
    for (const tokens of TOKENS) {
      const bytes = SIZE * SIZE * DTYPE_BYTES[dtype];
      const operations = 2 * SIZE * SIZE * tokens;
      // Enough products to pass over all weights; fewer where they reuse what they read hundreds of times.
      const count = tokens > 8 ? 2 : Math.floor(WEIGHT_BYTES / bytes);
      const ofRead: number[] = [];
      const ofFlops: number[] = [];
      const ofLibrary: number[] = [];
      const seconds: number[] = [];
      for (let run = 0; run < runs; run++) {
        const read = addon.measureReadBandwidth(readBytes, threads);
        const flops = addon.measureFlops(threads);
        const took = await productSeconds(dtype, tokens, inputMajor, count);
        seconds.push(took);
        ofRead.push(bytes / took / read);
        ofFlops.push(operations / took / flops);
        const library = inputMajor ? Number.NaN : await libraries.seconds(dtype, tokens, count);
        if (!Number.isNaN(library)) ofLibrary.push(library / took);
      }
      const name = `linear ${inputMajor ? '[K, N]' : '[N, K]'} ${dtype} T=${tokens}`;
      const [read, flops] = [median(ofRead), median(ofFlops)];
      printResult(
        name,
        `${(median(seconds) * 1e3).toFixed(2)} ms, ${(read * 100).toFixed(0)} % of read bandwidth, ${(flops * 100).toFixed(0)} % of multiply-add peak` +
          (ofLibrary.length > 0
            ? `, ${(median(ofLibrary) * 100).toFixed(0)} % of the best library's rate`
            : ''),
        { threads, seconds, ofRead, ofFlops, ofLibrary },
      );
    }
  }
}
libraries.close();
stream.close();
