// How near do products of a few tokens come to the GPU's copy rate, in bytes as weights are stored? Each format at the shapes
// of decoder blocks, weights cold; a layer's chain of kernels; and what it takes to make values of weights for many tokens.
//
// node dist/bench/gpu/weights.js [--runs 7] [--cold_mib 512]
//   [--tokens 17,32,64,96,128 --shapes 21504x14336,14336x7168 --formats 'int8 group 64,bf16']
//
// With `--tokens` it times only products of so many tokens, also beside what a product of thousands of tokens reaches.
// Products are queued behind each other, as a decode step has them, so that what lies between kernels counts. Weights rotate
// through a memory that no cache holds, and neighbours read different inputs, so that no two become one kernel.

import { parseArgs } from 'node:util';
import { CudaBackend, MiB, present, roundUp } from '../../offload/index.js';
import type { DeviceStream, HostMemory } from '../../offload/port/backend.js';
import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import { type Format, formatOf, isDense, type PartName } from '../../offload/port/formats.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { median, percent, printResult } from '../common.js';
import { measureRates } from './setting.js';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '7' },
    cold_mib: { type: 'string' },
    tokens: { type: 'string' },
    shapes: { type: 'string', default: '21504x14336,14336x7168,28672x14336,14336x28672' },
    formats: { type: 'string', default: 'int8 group 64,bf16' },
  },
});
const runs = Number(values.runs);
const someTokens = values.tokens?.split(',').map(Number) ?? [];
const coldBytes = Number(values.cold_mib ?? (values.tokens ? 1024 : 512)) * MiB;

const SHAPES = [
  [4096, 4096],
  [16384, 4096],
  [4096, 16384],
  [7168, 7168],
  [28672, 7168],
  [7168, 28672],
] as const;
const FORMATS: Readonly<Record<string, (K: number) => readonly [Format, Partial<Record<PartName, DType>>]>> =
  {
    bf16: () => [formatOf('dense', 'bf16'), { codes: 'bf16' }],
    'int4 group 64': () => [
      formatOf('packed4', 'bf16', { inputGroup: 64 }),
      { codes: 'i32', scales: 'bf16' },
    ],
    'int8 group 64': () => [
      formatOf('packed8', 'bf16', { inputGroup: 64 }),
      { codes: 'i32', scales: 'bf16' },
    ],
    'int8 channel': (K) => [formatOf('int8', 'bf16', { inputGroup: K }), { codes: 'i8', scales: 'bf16' }],
    'fp8 channel': (K) => [formatOf('e4m3', 'bf16', { inputGroup: K }), { codes: 'e4m3', scales: 'bf16' }],
    'fp8 blocks': () => [
      formatOf('e4m3', 'bf16', { rowGroup: 128, inputGroup: 128, product: 'f32' }),
      { codes: 'e4m3', scales: 'f32' },
    ],
    mxfp4: () => [
      formatOf('fp4', 'bf16', { inputGroup: 32, product: 'f32' }),
      { codes: 'u8', scales: 'e8m0' },
    ],
    'gptq 4 bits': () => [
      formatOf('gptq', 'bf16', { inputGroup: 128, product: 'f16', bits: 4 }),
      { codes: 'i32', scales: 'f16', zeros: 'i32' },
    ],
  };

const { memoryBytesPerSecond } = await measureRates();
const backend = new CudaBackend();
const device = present(backend.devices[0], 'device');
const noise = backend.allocateHost(64 * MiB, 'control');
fillNoise(noise);
const pool = device.allocate(coldBytes);
for (let at = 0; at < coldBytes; at += noise.sizeBytes)
  device.compute.copy(pool, at, noise, 0, noise.sizeBytes);
const mostTokens = Math.max(16, ...someTokens);
const inputs = [0, 1].map(() => small([mostTokens, 28672], 'bf16'));
const outputs = [0, 1].map(() => small([mostTokens, 28672], 'bf16'));
const vectors = small([4, 28672], 'bf16');
let nextByte = 0;

const rows: Record<string, string | number>[] = [];
const summary = someTokens.length > 0 ? await timeSome() : await timeFew();
await backend.close();
for (const { what, us, share, ofProducts } of rows) {
  process.stderr.write(`${what}: ${us} µs, ${share}${ofProducts ? `, ${ofProducts}` : ''}\n`);
}
printResult(
  `products of ${someTokens.length > 0 ? 'some' : 'a few'} tokens on a GPU`,
  `${rows.length} cases beside copies at ${(memoryBytesPerSecond / 1e12).toFixed(2)} TB/s (read and written); ${summary.text}`,
  { memoryBytesPerSecond, ...summary.figures, rows },
);

interface Summary {
  readonly text: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** Products alone, of more tokens than a few, beside one of so many that computing alone counts. */
async function timeSome(): Promise<Summary> {
  const [many, side] = [4096, 8192] as const;
  const [x, out] = [small([many, side], 'bf16'), small([many, side], 'bf16')];
  const [format, types] = present(FORMATS.bf16, 'bf16')(side);
  const weight = weightAt(format, types, [side, side]);
  const rest = { bias: null, activation: 'none', accumulate: false } as const;
  const whole = await chain(() => [{ op: 'linear', out, x, weight, ...rest }], 20);
  const flopsPerSecond = (2 * many * side * side) / (whole.ms / 1e3);
  for (const shape of values.shapes.split(',')) {
    const [N, K] = shape.split('x').map(Number) as [number, number];
    for (const tokens of someTokens) {
      for (const name of values.formats.split(',')) {
        const [stored, parts] = present(FORMATS[name], name)(K);
        const make = (index: number) => [linear(weightAt(stored, parts, [N, K]), tokens, index)];
        const { ms, bytes } = await chain(make, 20);
        const ofProducts = percent((2 * tokens * N * K) / (ms / 1e3) / flopsPerSecond);
        rows.push({ ...row(`${name}, ${N}×${K}, ${tokens} tokens`, ms, bytes), ofProducts });
      }
    }
  }
  const text = `a product of ${many} tokens makes ${(flopsPerSecond / 1e12).toFixed(0)} TFLOP/s`;
  return { text, figures: { flopsPerSecond } };
}

/** Products of a few, alone and in the chain of a layer's kernels; and those that need values of all weights. */
async function timeFew(): Promise<Summary> {
  for (const [name, make] of Object.entries(FORMATS)) {
    for (const [N, K] of SHAPES) {
      const [format, types] = make(K);
      for (const tokens of [1, 8]) {
        const { ms, bytes } = await chain(
          (index) => [linear(weightAt(format, types, [N, K]), tokens, index)],
          40,
        );
        rows.push(row(`${name}, ${N}×${K}, ${tokens} tokens`, ms, bytes));
      }
    }
  }
  for (const [name, make] of Object.entries(FORMATS)) {
    const product = (N: number, K: number, index: number, accumulate = false) => {
      const [format, types] = make(K);
      return linear(weightAt(format, types, [N, K]), 1, index, accumulate);
    };
    const layer = await chain(
      (index) => [
        norm(index),
        ...[0, 1, 2].map((which) => ({ ...product(4096, 4096, index), out: third(which) })),
        ...small2(index),
        product(4096, 4096, index + 1),
        norm(index + 1),
        product(16384, 4096, index),
        product(4096, 16384, index + 1, true),
      ],
      16,
    );
    rows.push(row(`${name}, a layer's kernels, 1 token`, layer.ms, layer.bytes));
  }
  const between = await chain((index) => [norm(index), ...small2(index), norm(index + 1)], 16);
  for (const [name, make] of Object.entries(FORMATS)) {
    const [N, K] = [16384, 4096];
    const [format, types] = make(K);
    for (const tokens of [9, 16]) {
      const { ms, bytes } = await chain(
        (index) => [linear(weightAt(format, types, [N, K]), tokens, index)],
        20,
      );
      rows.push(
        row(`${name}, ${N}×${K}, ${tokens} tokens${isDense(format) ? '' : ' through values'}`, ms, bytes),
      );
    }
  }
  const text = `a layer's four small kernels alone ${(between.ms * 1e3).toFixed(1)} µs`;
  return { text, figures: { betweenMs: between.ms } };
}

function row(what: string, ms: number, bytes: number) {
  return {
    what,
    us: Number((ms * 1e3).toFixed(1)),
    bytes,
    share: percent(bytes / (ms / 1e3) / memoryBytesPerSecond),
  };
}

/** Median milliseconds of one of `count` repetitions in one batch, and the stored bytes that it reads. */
async function chain(
  make: (index: number) => readonly Op[],
  count: number,
): Promise<{ ms: number; bytes: number }> {
  nextByte = 0;
  let bytes = 0;
  const queue = Array.from({ length: count }, (_, index) => make(index)).flat();
  for (const op of queue) if (op.op === 'linear') bytes += weightBytes(op.weight);
  const times: number[] = [];
  // The first ones load kernels, choose algorithms and become a graph.
  for (let run = 0; run < runs + 3; run++) {
    const start = device.compute.record();
    launch(device.compute, queue);
    const end = device.compute.record();
    await end.reached();
    if (run >= 3) times.push((end.timeMs - start.timeMs) / count);
  }
  return { ms: median(times), bytes: bytes / count };
}

function launch(stream: DeviceStream, ops: readonly Op[]): void {
  for (const op of ops) stream.launch(op);
}

function linear(weight: Weight, tokens: number, index: number, accumulate = false): Op & { op: 'linear' } {
  const [N, K] = weight.shape;
  const x = cut(present(inputs[index % 2], 'inputs'), tokens, K);
  const out = cut(present(outputs[index % 2], 'outputs'), tokens, N);
  return { op: 'linear', out, x, weight, bias: cutVector(0, N), activation: 'none', accumulate };
}

function norm(index: number): Op {
  const [x, out] = [outputs, inputs].map((all) => cut(present(all[index % 2], 'rows'), 1, 4096)) as [
    Tensor,
    Tensor,
  ];
  return { op: 'layer_norm', out, x, weight: cutVector(1, 4096), bias: cutVector(2, 4096), eps: 1e-5 };
}

/** As many small kernels as a cache and attention are. */
function small2(index: number): Op[] {
  const [a, b] = [third(0), third(1)];
  const out = cut(present(inputs[(index + 1) % 2], 'inputs'), 1, 4096);
  return [
    { op: 'add', out: b, a, b },
    { op: 'add', out, a, b },
  ];
}

function third(which: number): Tensor {
  const all = present(outputs[0], 'outputs');
  return { ...cut(all, 1, 4096), offsetBytes: all.offsetBytes + (4 + which) * 2 * 28672 };
}

function cut(rows16: Tensor, tokens: number, length: number): Tensor {
  return { ...rows16, shape: [tokens, length] };
}

function cutVector(which: number, length: number): Tensor {
  return { ...vectors, offsetBytes: which * 2 * 28672, shape: [length], strides: [1] };
}

/** The next place in the memory that rotates. */
function weightAt(
  format: Format,
  types: Partial<Record<PartName, DType>>,
  [N, K]: readonly [number, number],
): Weight {
  const groups = Math.ceil(K / format.inputGroup);
  const inputMajor = format.name === 'gptq';
  const shapes: Partial<Record<PartName, readonly [number, number]>> = {
    codes: inputMajor ? [(K * format.bits) / 32, N] : [N, codesOf(format, K)],
    scales: inputMajor ? [groups, N] : [Math.ceil(N / format.rowGroup), groups],
    zeros: [groups, N / 8],
  };
  const parts: Partial<Record<PartName, Tensor>> = {};
  for (const [name, dtype] of Object.entries(types) as [PartName, DType][]) {
    const shape = present(shapes[name], name);
    const size = roundUp(elementCount(shape) * DTYPE_BYTES[dtype], 256);
    if (nextByte + size > coldBytes) nextByte = 0;
    parts[name] = tensor(pool, nextByte, dtype, shape);
    nextByte += size;
  }
  return { format, shape: [N, K], firstRow: 0, parts };
}

function codesOf(format: Format, K: number): number {
  switch (format.name) {
    case 'packed4':
      return K / 8;
    case 'packed8':
      return K / 4;
    case 'fp4':
      return K / 2;
    default:
      return K;
  }
}

function weightBytes({ parts }: Weight): number {
  return Object.values(parts).reduce(
    (sum, part) => sum + elementCount(part.shape) * DTYPE_BYTES[part.dtype],
    0,
  );
}

function small(shape: readonly number[], dtype: DType): Tensor {
  const memory = device.allocate(roundUp(elementCount(shape) * DTYPE_BYTES[dtype], 2 * MiB));
  device.compute.copy(memory, 0, noise, 0, memory.sizeBytes);
  return tensor(memory, 0, dtype, shape);
}

/** Values of about 0.02 as bf16, in pairs that are floats of that size as well. */
function fillNoise(host: HostMemory): void {
  const data = new Uint16Array(host.bytes.buffer, host.bytes.byteOffset, host.sizeBytes / 2);
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    data[i] = ((state >>> 16) & 0x8000) | (0x3c80 + ((state >>> 20) & 0x7f));
  }
}
