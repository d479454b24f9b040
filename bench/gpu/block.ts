// What does one block take on a GPU when nothing has to be waited for? The whole of it beside its products alone, and
// every operation.
//
// node dist/bench/gpu/block.js [--shape opt-6.7b] [--block 0] [--prompt 512] [--batch 64] [--micro 2048] [--runs 5] [--seconds 4]
//
// The limit is the products' own rate: the same products of the same inputs, 16 bits in and out, with nothing before
// or after them; of a mixture, as many rows through the matrix of one expert. Decoding tokens would wait for memory; a
// prompt's do not.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { CudaBackend, MiB, present, roundUp } from '../../offload/index.js';
import { deviceActivationType } from '../../offload/model/activation-type.js';
import { ForwardOps } from '../../offload/model/forward-ops.js';
import { type KvShape, layerCaches, pageBytes, pagesFor } from '../../offload/model/kv-cache.js';
import type { Weights } from '../../offload/model/model.js';
import { stateFields, statesBytes } from '../../offload/model/state-cache.js';
import { Workspace } from '../../offload/model/workspace.js';
import { dryRun } from '../../offload/plan/dry-run.js';
import { controlWords } from '../../offload/plan/pass-sizes.js';
import type { DeviceEvent, DeviceStream, HostMemory, OpStream } from '../../offload/port/backend.js';
import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import type { Memory, Op, Tensor } from '../../offload/port/ops.js';
import { rows, tensor } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';
import { type ControlTables, writeControl } from '../../offload/run/pass.js';
import { shapeModel } from '../../src/engine/shape.js';
import { chooseWay, type TensorDef } from '../../src/models/architecture.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { median, printResult } from '../common.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-6.7b' },
    block: { type: 'string', default: '0' },
    prompt: { type: 'string', default: '512' },
    batch: { type: 'string', default: '64' },
    micro: { type: 'string', default: '2048' },
    type: { type: 'string', default: 'bf16' },
    runs: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '0' },
  },
});
const [prompt, batch, micro, runs] = [values.prompt, values.batch, values.micro, values.runs].map(Number) as [
  number,
  number,
  number,
  number,
];
const blockIndex = Number(values.block);
const half = values.type === 'f16';
const type: DType = half ? 'f16' : 'bf16';
const path = `configs/models/${values.shape}.json`;
const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
const model = buildArchitecture(config, path);
const spec = shapeModel(config, path, half ? 'float16' : 'bfloat16').model;
const activations = deviceActivationType(spec);
const perMicro = Math.max(1, Math.floor(micro / prompt));
const microBatches = Math.ceil(batch / perMicro);

const backend = new CudaBackend();
const device = present(backend.devices[0], 'device');
const noise = backend.allocateHost(64 * MiB, 'control');
fillNoise(noise);

const noiseRows = new Map<string, Tensor>();
const hidden = floats([batch * prompt, model.hiddenSize]);
const weights = placeWeights(chooseWay(model.block(blockIndex), () => false));
const constants = new Map(
  Object.entries(model.constants).map(([name, data]) => [name, upload(data)] as const),
);
/** Its second half is for results of products alone. */
const workspace = device.allocate(2 * dryRun(spec, perMicro * prompt, 1, activations).workspaceBytes);
const shape: KvShape = { caches: model.caches.slice(blockIndex, blockIndex + 1), dtype: activations };
const pageCount = batch * pagesFor(prompt);
const pages = device.allocate(Math.max(1, pageCount * pageBytes(shape)));
const [cache] = layerCaches(pages, shape, { kvPages: pageCount, horizons: [] });
/** A micro-batch has as many sequences at most. */
const stateSlots = { slots: perMicro, contextTokens: prompt };
const states = device.allocate(Math.max(1, statesBytes(shape.caches, stateSlots)));
const [fields] = stateFields(states, shape.caches, stateSlots);
const tables = makeTables();

const blockMs = await timed((stream) => forward(stream));
const products: Op[] = [];
const perOp = await timedOps();
const productsMs = await timed((stream) => {
  for (const op of products) stream.launch(op);
}, false);
const flops = products.reduce((sum, op) => {
  if (op.op !== 'linear' && op.op !== 'head_linear') return sum;
  return sum + 2 * elementCount(op.out.shape) * (op.x.shape.at(-1) ?? 0);
}, 0);
await backend.close();
const rate = (ms: number) => (flops / ms / 1e9).toFixed(0);
printResult(
  `a block of ${values.shape} on a GPU`,
  `${batch}×${prompt} tokens in ${microBatches} micro-batches: block ${blockMs.toFixed(2)} ms (${rate(blockMs)} TFLOP/s), ` +
    `products alone ${productsMs.toFixed(2)} ms (${rate(productsMs)} TFLOP/s): ${((productsMs / blockMs) * 100).toFixed(1)} %; ` +
    perOp.map(({ name, ms }) => `${name} ${ms.toFixed(3)}`).join(', '),
  { ...values, blockMs, productsMs, flops, perOp },
);

function forward(stream: OpStream): void {
  const ops = new ForwardOps(stream, new Workspace(workspace, activations), constants);
  tables.forEach(({ attention, lengths, states: slotTables }, index) => {
    const slots = fields && { fields, tables: present(slotTables, 'slots of states') };
    ops.enter(attention[0], cache, lengths, slots);
    const first = index * perMicro * prompt;
    const x = rows(hidden, first, Math.min(perMicro * prompt, batch * prompt - first));
    model.forward.block(ops, weights, x, blockIndex);
  });
}

/**
 * Median milliseconds of what `queue` queues: of so many runs and seconds, the later half. A GPU that has computed for
 * seconds is slower than one that begins, because it may only take so much power.
 */
async function timed(queue: (stream: DeviceStream) => void, refreshes = true): Promise<number> {
  const times: number[] = [];
  const untilMs = performance.now() + Number(values.seconds) * 1000;
  while (times.length <= runs || performance.now() < untilMs) {
    if (refreshes) refresh();
    const start = device.compute.record();
    queue(device.compute);
    const end = device.compute.record();
    await end.reached();
    times.push(end.timeMs - start.timeMs);
  }
  return median(times.slice(times.length >> 1));
}

/** Milliseconds of each operation over all micro-batches, from events between them; keeps the products for later. */
async function timedOps(): Promise<{ name: string; ms: number }[]> {
  const names: string[] = [];
  const events: DeviceEvent[] = [];
  const stream: OpStream = {
    launch: (op) => {
      device.compute.launch(op);
      names.push(nameOf(op));
      events.push(device.compute.record());
      if (op.op === 'expert_linear') products.push(likeOneMatrix(op));
      if (op.op === 'head_linear') products.push(op);
      if (op.op !== 'linear') return;
      const out = {
        ...op.out,
        dtype: type,
        memory: workspace,
        offsetBytes: op.out.dtype === 'f32' ? 0 : op.out.offsetBytes,
      };
      products.push({
        ...op,
        out: op.out.dtype === 'f32' ? dense(out) : op.out,
        bias: null,
        activation: 'none',
        accumulate: false,
      });
    },
  };
  refresh();
  // Keeps the GPU busy while the first operations are queued, so that none waits for JavaScript.
  forward(device.compute);
  let before = device.compute.record();
  forward(stream);
  await present(events.at(-1), 'an event').reached();
  const sums = new Map<string, number>();
  events.forEach((event, index) => {
    const name = names[index] ?? '';
    sums.set(name, (sums.get(name) ?? 0) + event.timeMs - before.timeMs);
    before = event;
  });
  return [...sums].map(([name, ms]) => ({ name, ms }));
}

/** As many rows of 16 bits, all through one expert's matrix: what a library would do if nobody had to choose. */
function likeOneMatrix({ out, x, weights }: Op & { op: 'expert_linear' }): Op {
  const [count, outputs] = out.shape as [number, number];
  const [weight, inputs] = [present(weights[0], 'an expert'), x.shape[1] ?? 0];
  const plain = { bias: null, inputMajor: false, activation: 'none', accumulate: false } as const;
  return { op: 'linear', out: rowsOf(count, outputs), x: rowsOf(count, inputs), weight, ...plain };
}

/** Rows of noise; the same for all who ask for that shape. */
function rowsOf(count: number, length: number): Tensor {
  const known = noiseRows.get(`${count}×${length}`);
  if (known) return known;
  const memory = device.allocate(roundUp(count * length * DTYPE_BYTES[type], 2 * MiB));
  fillDevice(memory, memory.sizeBytes);
  const made = tensor(memory, 0, type, [count, length]);
  noiseRows.set(`${count}×${length}`, made);
  return made;
}

function dense(like: Tensor): Tensor {
  return tensor(like.memory, like.memory.sizeBytes / 2, like.dtype, like.shape);
}

function nameOf(op: Op): string {
  if (op.op === 'expert_linear') return `experts ${op.weights.length} of ${op.weights[0]?.shape.join('×')}`;
  if (op.op !== 'linear') return op.op;
  return `linear ${op.weight.shape.join('×')}${op.accumulate ? ' added' : ''}`;
}

/** Inputs as a model has them: a residual that every run has added to would grow. */
function refresh(): void {
  fillDevice(hidden.memory, hidden.memory.sizeBytes);
}

function placeWeights(defs: readonly TensorDef[]): Weights {
  let size = 0;
  const places = defs.map(({ key, shape: dims }) => {
    const offset = size;
    size = roundUp(size + elementCount(dims) * DTYPE_BYTES[type], 256);
    return { key, offset, dims };
  });
  const memory = device.allocate(size);
  fillDevice(memory, size);
  const byKey = new Map(places.map(({ key, offset, dims }) => [key, tensor(memory, offset, type, dims)]));
  const find = (key: string) => byKey.get(key) ?? null;
  const matrix = (key: string) => denseWeight(present(find(key), key));
  return Object.assign((key: string) => present(find(key), key), {
    optional: find,
    matrix,
    hasMatrix: (key: string) => find(key) !== null,
    experts: (keys: readonly string[]) => keys.map(matrix),
  });
}

function makeTables(): ControlTables[] {
  const sizes = {
    passTokens: batch * prompt,
    sequences: batch,
    microBatchTokens: 1,
    historyTokens: 0,
    addedTokens: 0,
    maskWords: 0,
    horizons: [],
  };
  const words = controlWords(sizes, 0, pagesFor(prompt));
  const host = backend.allocateHost(words * 4, 'control');
  const memory = device.allocate(words * 4);
  const made: ControlTables[] = [];
  let firstWord = 0;
  for (let first = 0; first < batch; first += perMicro) {
    const slices = Array.from({ length: Math.min(perMicro, batch - first) }, (_, index) => ({
      tokens: new Int32Array(prompt),
      startPosition: 0,
      stateSlot: fields && index,
      pages: Array.from(
        { length: pagesFor(prompt) },
        (__, page) => (first + index) * pagesFor(prompt) + page,
      ),
    }));
    const microBatch = { slices, outputs: new Int32Array(0) };
    const written = new Int32Array(host.bytes.buffer);
    const table = writeControl(microBatch, { rows: [], words: written, firstWord, memory });
    firstWord += table.words;
    made.push(table);
  }
  device.compute.copy(memory, 0, host, 0, words * 4);
  return made;
}

/** Values of about 0.02 as 16-bit floats, in pairs that are floats of that size as well. */
function fillNoise(host: HostMemory): void {
  const data = new Uint16Array(host.bytes.buffer, host.bytes.byteOffset, host.sizeBytes / 2);
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    const sign = (state >>> 16) & 0x8000;
    data[i] = sign | (type === 'bf16' ? 0x3c80 + ((state >>> 20) & 0x7f) : 0x2400 + ((state >>> 20) & 0x3ff));
  }
}

function fillDevice(memory: Memory, sizeBytes: number): void {
  for (let at = 0; at < sizeBytes; at += noise.sizeBytes) {
    device.compute.copy(memory, at, noise, 0, Math.min(noise.sizeBytes, sizeBytes - at));
  }
}

function floats(dims: readonly number[]): Tensor {
  return tensor(device.allocate(elementCount(dims) * 4), 0, 'f32', dims);
}

function upload(data: Float32Array): Tensor {
  const host = backend.allocateHost(data.byteLength, 'control');
  host.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const memory = device.allocate(data.byteLength);
  device.compute.copy(memory, 0, host, 0, data.byteLength);
  return tensor(memory, 0, 'f32', [data.length]);
}
