// What does a layer with a state take beside its own projections? A prompt's recurrence not more than twice as long, and one token of
// each sequence as long as reading and writing its state.
//
// node dist/bench/gpu/states.js [--rule delta|mamba] [--hidden 2048] [--key_heads 16] [--value_heads 32]
//   [--key_dim 128] [--value_dim 128] [--tokens 16384] [--sequences 1] [--decode 64] [--type bf16]
//
// A layer of Qwen3-Next-80B by default; `--rule mamba` takes keys for what a state is written and read with. Decoding reads the
// layer's weights once, and reads and writes every state: its limit is the memory.

import { parseArgs } from 'node:util';
import { CudaBackend, MiB, present } from '../../offload/index.js';
import { GPU_SIZES } from '../../offload/measure/bench-sizes.js';
import { KernelBench, RUNS } from '../../offload/measure/kernel-bench.js';
import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import type { Memory, Op, Tensor } from '../../offload/port/ops.js';
import { columns, heads, reshaped, tensor } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';
import { median, printResult } from '../common.js';

const { values } = parseArgs({
  options: {
    rule: { type: 'string', default: 'delta' },
    hidden: { type: 'string', default: '2048' },
    key_heads: { type: 'string', default: '16' },
    value_heads: { type: 'string', default: '32' },
    key_dim: { type: 'string', default: '128' },
    value_dim: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '16384' },
    sequences: { type: 'string', default: '1' },
    decode: { type: 'string', default: '64' },
    type: { type: 'string', default: 'bf16' },
  },
});
const isDelta = values.rule !== 'mamba';
const [H, nK, nV, Dk, Dv] = [
  values.hidden,
  values.key_heads,
  values.value_heads,
  values.key_dim,
  values.value_dim,
].map(Number) as [number, number, number, number, number];
const promptTokens = Number(values.tokens);
const decoded = Number(values.decode);
const type: DType = values.type === 'f16' ? 'f16' : values.type === 'f32' ? 'f32' : 'bf16';
const WIDTH = 4;
const C = 2 * nK * Dk + nV * Dv;

const backend = new CudaBackend();
const device = present(backend.devices[0], 'device');
const sizes = { ...GPU_SIZES, coldBytes: 8192 * MiB, scratchBytes: 4096 * MiB };
const bench = new KernelBench(backend, device, sizes);

/** Memory that is handed out again from its start where it is used up, so that nothing is read from a cache. */
class Ring {
  readonly #memory: Memory;
  #next = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  take(dtype: DType, shape: readonly number[]): Tensor {
    const sizeBytes = Math.ceil((elementCount(shape) * DTYPE_BYTES[dtype]) / 256) * 256;
    if (this.#next + sizeBytes > this.#memory.sizeBytes) this.#next = 0;
    const made = tensor(this.#memory, this.#next, dtype, shape);
    this.#next += sizeBytes;
    return made;
  }
}

const copyBytesPerSecond = await copyRate();
const name = isDelta ? 'gated delta rule' : 'Mamba 2';
const prompt = await measure(promptTokens, Number(values.sequences), 0);
printResult(
  `${name}, ${promptTokens} tokens of a prompt`,
  `recurrence ${prompt.scan.toFixed(3)} ms, convolution ${prompt.conv.toFixed(3)}, norm ${prompt.norm.toFixed(3)}; projections ` +
    `${prompt.projections.toFixed(3)} ms: ${(prompt.scan / prompt.projections).toFixed(2)} of them, all ` +
    `${((prompt.scan + prompt.conv + prompt.norm) / prompt.projections).toFixed(2)}`,
  { ...values, ...prompt },
);
const step = await measure(decoded, decoded, 1000);
const stateBytes = 2 * decoded * nV * Dk * Dv * DTYPE_BYTES.f32;
const weightBytes = (C + 2 * nV * Dv) * H * DTYPE_BYTES[type];
const ms = step.scan + step.conv + step.norm + step.projections;
const share = (bytes: number, took: number) =>
  `${((100 * bytes) / (took / 1e3) / copyBytesPerSecond).toFixed(1)} %`;
printResult(
  `${name}, a token of ${decoded} sequences`,
  `recurrence ${step.scan.toFixed(4)} ms (${share(stateBytes, step.scan)} of the memory's rate over states), layer ${ms.toFixed(4)} ms ` +
    `(${share(stateBytes + weightBytes, ms)} over states and weights)`,
  { ...values, ...step, stateBytes, weightBytes, copyBytesPerSecond },
);
await backend.close();

/** Medians of the layer's operations for as many tokens, evenly of some sequences with so many tokens before. */
async function measure(tokens: number, sequences: number, before: number) {
  const each = tokens / sequences;
  const range = Array.from({ length: sequences }, (_, s) => s);
  const [table, slots] = bench.ints(
    { shape: [sequences, 4], values: range.flatMap((s) => [s * each, each, each + before, 0]) },
    { shape: [sequences], values: range },
  ) as [Tensor, Tensor];
  const tables = { sequences: table, slots };
  const [weights, work] = [new Ring(bench.cold), new Ring(bench.scratch)];
  const linear = (outputs: number, inputs: number) =>
    bench.medianMs((): Op => {
      const weight = denseWeight(weights.take(type, [outputs, inputs]));
      const [x, out] = [work.take(type, [tokens, inputs]), work.take(type, [tokens, outputs])];
      return { op: 'linear', out, x, weight, bias: null, activation: 'none', accumulate: false };
    });
  let projections = 0;
  for (const [outputs, inputs] of [
    [C + nV * Dv, H],
    [2 * nV, H],
    [H, nV * Dv],
  ] as const) {
    projections += await linear(outputs, inputs);
  }
  const conv = await bench.medianMs((): Op => {
    const [x, out] = [work.take(type, [tokens, 1, C]), work.take(type, [tokens, 1, C])];
    const [weight, state] = [weights.take('f32', [C, WIDTH]), weights.take('f32', [sequences, WIDTH - 1, C])];
    return { op: 'causal_conv', out, x, weight, bias: null, state, tables, activation: 'silu' };
  });
  const scan = await bench.medianMs((): Op => {
    const mixed = work.take(type, [tokens, C]);
    const part = (first: number) => heads(columns(mixed, first, nK * Dk), nK, Dk);
    const numbers = () => work.take('f32', [tokens, nK, nV / nK]);
    const vector = () => weights.take('f32', [nV]);
    return {
      op: 'state_scan',
      out: work.take(type, [tokens, nV, Dv]),
      q: part(0),
      k: part(nK * Dk),
      v: heads(columns(mixed, 2 * nK * Dk, nV * Dv), nV, Dv),
      step: numbers(),
      beta: isDelta ? numbers() : null,
      stepBias: vector(),
      decay: vector(),
      skip: isDelta ? null : vector(),
      state: weights.take('f32', [sequences, nV, Dk, Dv]),
      tables,
      minStep: 0,
      maxStep: Number.POSITIVE_INFINITY,
      normEps: isDelta ? 1e-6 : 0,
      queryScale: isDelta ? Dk ** -0.5 : 1,
    };
  });
  const norm = await bench.medianMs((): Op => {
    const [x, gate, out] = [0, 0, 0].map(() =>
      reshaped(work.take(type, [tokens, nV * Dv]), [tokens, nV, Dv]),
    );
    const weight = weights.take('f32', [Dv]);
    const operands = { out: present(out, 'out'), x: present(x, 'x'), gate: present(gate, 'gate'), weight };
    return { op: 'gated_rms', ...operands, eps: 1e-6, gateFirst: !isDelta };
  });
  return { projections, conv, scan, norm };
}

/** What copies within the device's memory read and write a second. */
async function copyRate(): Promise<number> {
  const seconds: number[] = [];
  const bytes = sizes.scratchBytes / 2;
  for (let run = 0; run <= RUNS; run++) {
    const start = device.compute.record();
    device.compute.copy(bench.scratch, 0, bench.cold, 0, bytes);
    const end = device.compute.record();
    await end.reached();
    if (run > 0) seconds.push((2 * bytes) / ((end.timeMs - start.timeMs) / 1e3));
  }
  return median(seconds);
}
