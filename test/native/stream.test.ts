// Streams and events: order, waits across streams, promises, failure, closing in the middle of work, teardown.

import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { encodeCopy, encodeFill, encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { NativeStream } from '../../offload/port/native-devices.js';
import type { Op } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { TestMemory } from './tensor-bytes.js';

const open: NativeStream[] = [];
const memories: TestMemory[] = [];
function newStream(name = 'test'): NativeStream {
  const stream = native().createStream(name);
  open.push(stream);
  return stream;
}
function newMemory(sizeBytes: number): TestMemory {
  const memory = new TestMemory(sizeBytes);
  memories.push(memory);
  return memory;
}
afterEach(() => {
  for (const stream of open.splice(0)) stream.close();
  for (const memory of memories.splice(0)) memory.free();
});

/** out += 1 for every element: its result tells how often it ran. */
function counter(memory: TestMemory): { op: Op; count: () => number } {
  const out = memory.fill(memory.tensor('f32', [64]), () => 0);
  const ones = memory.fill(memory.tensor('f32', [64]), () => 1);
  return { op: { op: 'add', out, a: out, b: ones }, count: () => memory.read(out)[63] ?? 0 };
}

/** A product of tens of seconds on one core. */
function bigProduct(memory: TestMemory): Op {
  const [tokens, outputs, inputs] = [8192, 8192, 8192];
  const x = memory.tensor('f32', [tokens, inputs]);
  const weight = memory.tensor('f32', [outputs, inputs]);
  const out = memory.tensor('f32', [tokens, outputs]);
  return {
    op: 'linear',
    ...{ out, x, weight: denseWeight(weight), bias: null, activation: 'none', accumulate: false },
  };
}
const BIG_BYTES = 3 * 8192 * 8192 * 4 + 4096;

describe('streams', () => {
  it('run what is queued in order, and events fall between', async () => {
    const stream = newStream();
    const { op, count } = counter(newMemory(4096));
    const before = stream.record();
    for (let i = 0; i < 1000; i++) stream.launch(encodeOp(op));
    const after = stream.record();
    await after.promise();
    expect(count()).toBe(1000);
    expect([before.done, after.done]).toEqual([true, true]);
    expect(before.timeMs).toBeLessThanOrEqual(after.timeMs);
    expect(after.timeMs).toBeLessThanOrEqual(native().nowMs());
  });

  it('run a batch in order, each operation after its length', async () => {
    const stream = newStream();
    const { op, count } = counter(newMemory(4096));
    const words = encodeOp(op);
    const one = [words.length, ...words];
    stream.launchAll(Float64Array.from([...one, ...one, ...one]));
    await stream.record().promise();
    expect(count()).toBe(3);
    expect(() => stream.launchAll(Float64Array.from([...one, words.length + 1, ...words]))).toThrow(
      'a batch of operations ends too early',
    );
    expect(() => stream.launchAll(Float64Array.of(0))).toThrow('ends too early');
    stream.launchAll(new Float64Array(0));
    await stream.record().promise();
    expect(count()).toBe(3);
  });

  it('an event has promises before and after it is reached, any number of them', async () => {
    const stream = newStream();
    const event = stream.record();
    await Promise.all([event.promise(), event.promise()]);
    await event.promise();
    expect(event.done).toBe(true);
  });

  it('wait for events of other streams', async () => {
    const [first, second, third] = [newStream('first'), newStream('second'), newStream('third')];
    const memory = newMemory(1 << 16);
    const source = memory.fill(memory.tensor('f32', [64]), (i) => i);
    const middle = memory.tensor('f32', [64]);
    const last = memory.tensor('f32', [64]);
    for (let round = 0; round < 50; round++) {
      memory.fill(last, () => -1);
      // Queued back to front: only the waits put them in order.
      const gate = newStream('gate');
      const { memory: raw } = memory;
      gate.launch(encodeFill(raw, middle.offsetBytes, 256, 0));
      second.wait(gate.record());
      second.launch(encodeCopy(raw, middle.offsetBytes, raw, source.offsetBytes, 256));
      const copied = second.record();
      third.wait(copied);
      third.launch(encodeCopy(raw, last.offsetBytes, raw, middle.offsetBytes, 256));
      first.wait(third.record());
      await first.record().promise();
      expect(memory.read(last)[63]).toBe(63);
      gate.close();
    }
  });

  it('copy and fill bytes between memories', async () => {
    const stream = newStream();
    const [from, to] = [newMemory(5 << 20), newMemory(5 << 20)];
    const bytes = new Uint8Array(from.view.buffer).map((_, i) => i * 7);
    new Uint8Array(from.view.buffer).set(bytes);
    stream.launch(encodeFill(to.memory, 0, 5 << 20, 255));
    stream.launch(encodeCopy(to.memory, 3, from.memory, 1001, (4 << 20) + 5));
    await stream.record().promise();
    const got = Buffer.from(to.view.buffer as ArrayBuffer);
    expect(got.subarray(0, 3)).toEqual(Buffer.alloc(3, 255));
    expect(got.subarray(3, 3 + (4 << 20) + 5).equals(bytes.subarray(1001, 1001 + (4 << 20) + 5))).toBe(true);
    expect(got[3 + (4 << 20) + 5]).toBe(255);
  });

  it('hold the memories of queued work after free()', async () => {
    const stream = newStream();
    const memory = new TestMemory(4096);
    const { op, count } = counter(memory);
    for (let i = 0; i < 200; i++) stream.launch(encodeOp(op));
    const event = stream.record();
    memory.free();
    await event.promise();
    expect(count()).toBe(200);
    expect(() => stream.launch(encodeOp(op))).toThrow('used after free');
  });
});

describe('close', () => {
  it('in the middle of a big product drops the rest and rejects events', async () => {
    const memory = newMemory(BIG_BYTES);
    const stream = newStream();
    const product = bigProduct(memory);
    const started = stream.record();
    stream.launch(encodeOp(product));
    stream.launch(encodeOp(product));
    const after = stream.record();
    const outcome = expect(after.promise()).rejects.toThrow("stream 'test' was closed");
    await started.promise();
    stream.close();
    await outcome;
    expect(after.done).toBe(false);
    expect(after.timeMs).toBeNaN();
    stream.close();
  });

  it('makes streams that wait for its events fail, not hang', async () => {
    const memory = newMemory(BIG_BYTES);
    const [closing, waiting] = [newStream('closing'), newStream('waiting')];
    closing.launch(encodeOp(bigProduct(memory)));
    waiting.wait(closing.record());
    const event = waiting.record();
    const outcome = expect(event.promise()).rejects.toThrow("stream 'closing' was closed");
    closing.close();
    await outcome;
    // What failed stays failed, and says why.
    await expect(waiting.record().promise()).rejects.toThrow("'closing' was closed");
  });

  it('of a waiting stream returns although the event is never reached', () => {
    const memory = newMemory(BIG_BYTES);
    const [busy, waiting] = [newStream('busy'), newStream('waiting')];
    busy.launch(encodeOp(bigProduct(memory)));
    waiting.wait(busy.record());
    waiting.close();
  });

  it('refuses what comes after', () => {
    const stream = newStream();
    const { op } = counter(newMemory(4096));
    stream.close();
    expect(() => stream.launch(encodeOp(op))).toThrow("stream 'test' is closed");
    expect(() => stream.record()).toThrow('is closed');
  });
});

describe('operands that do not fit', () => {
  const stream = newStream('errors');
  const memory = new TestMemory(4096);
  const f32 = (shape: readonly number[]) => memory.tensor('f32', shape);
  const [x, weight, out] = [f32([3, 8]), f32([5, 8]), f32([3, 5])];
  const linear: Extract<Op, { op: 'linear' }> = {
    op: 'linear',
    ...{ out, x, weight: denseWeight(weight), bias: null, activation: 'none', accumulate: false },
  };
  const cases: readonly [string, Op, RegExp][] = [
    [
      'unknown memory',
      { ...linear, x: { ...x, memory: { id: 999_999, sizeBytes: 0 } } },
      /memory 999999, which does not exist/,
    ],
    [
      'beyond the end',
      { ...linear, x: { ...x, offsetBytes: 4096 - 92 } },
      /x f32 \[3, 8\] reaches from byte 4004 to 4100 of memory/,
    ],
    [
      'sizes that wrap around',
      { ...linear, x: { ...x, shape: [2 ** 52, 8], strides: [2 ** 52, 1] } },
      /reaches/,
    ],
    ['a negative size', { ...linear, x: { ...x, shape: [-1, 8] } }, /which is no size/],
    ['a fraction', { ...linear, x: { ...x, offsetBytes: 0.5 } }, /which is no size/],
    [
      'a different K',
      { ...linear, weight: denseWeight({ ...weight, shape: [5, 7] }) },
      /x f32 \[3, 8\] must have 7 in dimension 1/,
    ],
    [
      'a different T',
      { ...linear, out: { ...out, shape: [2, 5] } },
      /x f32 \[3, 8\] must have 2 in dimension 0/,
    ],
    ['a short bias', { ...linear, bias: f32([4]) }, /bias f32 \[4\] must have 5/],
    ['a transposed view', { ...linear, x: { ...x, strides: [1, 3] } }, /innermost stride of 1/],
    ['f16 activations', { ...linear, x: { ...x, dtype: 'f16' } }, /x must be f32/],
    ['odd activations', { ...linear, x: { ...x, offsetBytes: 2 } }, /multiple of 4/],
    ['a wrong rank', { ...linear, x: f32([8]) }, /x f32 \[8\] must have 2 dimensions/],
    ['f32 indices', { op: 'argmax', logits: x, out: f32([3]) }, /out must be i32/],
  ];
  it.each(cases)('%s: launch throws', (_, op, message) => {
    expect(() => stream.launch(encodeOp(op))).toThrow(message);
  });

  it('nonsense: launch throws', () => {
    const fresh = newStream();
    expect(() => fresh.launch(new Float64Array(0))).toThrow('ends too early');
    expect(() => fresh.launch(Float64Array.of(99))).toThrow('unknown opcode');
    expect(() => fresh.launch(Float64Array.of(11, 0))).toThrow('ends too early');
    expect(() => fresh.launch(new Float32Array(3) as unknown as Float64Array)).toThrow(TypeError);
    expect(() => fresh.wait({} as ReturnType<NativeStream['record']>)).toThrow(TypeError);
    expect(() => fresh.launch(encodeCopy(memory.memory, 0, memory.memory, 8, 16))).toThrow('overlap');
    expect(() => native().configureCpu({ threads: 1, isa: 'mmx' })).toThrow("'mmx'");
  });

  it('indices in memory: the stream fails with a sentence, and stays failed', async () => {
    const table = f32([4, 8]);
    const rows = memory.fill(memory.tensor('i32', [3]), (i) => i * 2);
    const gathered = f32([3, 8]);
    const fresh = newStream('indices');
    fresh.launch(encodeOp({ op: 'gather_rows', out: gathered, table, rows, accumulate: false, scale: 1 }));
    await expect(fresh.record().promise()).rejects.toThrow(
      "stream 'indices': gather_rows: row 4 of token 2 is outside the table of 4 rows",
    );
    fresh.launch(encodeOp(linear));
    await expect(fresh.record().promise()).rejects.toThrow('row 4 of token 2');
  });
});

describe('teardown of the environment', () => {
  // The worker runs compiled JavaScript: it speaks to the addon in words, which keeps it independent of a build.
  const addon = fileURLToPath(new URL('../../native/build/Release/zero_inference.node', import.meta.url));
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    const addon = require(workerData.addon);
    const size = 2048;
    const memory = new addon.NativeMemory(size * size * 4, false);
    const tensor = [memory.id, 0, 0, 2, size, size, 0, 0, size, 1, 0, 0];
    const none = new Array(12).fill(0);
    const weight = [0, 1, size, size, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, ...tensor];
    const words = Float64Array.of(3, ...tensor, ...tensor, ...weight, ...none, 0, 0);
    const streams = [1, 2, 3].map((i) => addon.createStream('worker ' + i));
    for (const stream of streams) {
      for (let i = 0; i < 50; i++) stream.launch(words);
      stream.record().promise().catch(() => {});
    }
    streams[1].wait(streams[0].record());
    parentPort.postMessage('busy');
    if (workerData.exit) process.exit(0);
    setInterval(() => {}, 1000);
  `;

  it.each([false, true])('with busy streams neither hangs nor crashes (exit by itself: %s)', async (exit) => {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(source, { eval: true, workerData: { addon, exit } });
      await new Promise((resolve) => worker.once('message', resolve));
      await worker.terminate();
    }
    const stream = newStream();
    await stream.record().promise();
  });
});
