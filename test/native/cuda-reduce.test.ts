// GPUs that sum together: several ranks on one GPU, whose streams differ, and two GPUs where there are; as graphs, and when one never comes.

import { describe, expect, it } from 'vitest';
import { CudaBackend } from '../../offload/backends/cuda.js';
import { present } from '../../offload/errors.js';
import type { Exchange } from '../../offload/port/exchange.js';
import { exchangeBytes } from '../../offload/port/exchange.js';
import { native } from '../../offload/port/native.js';
import type { NativeExchange } from '../../offload/port/native-devices.js';
import { tensor } from '../../offload/port/tensor.js';
import { HAS_GPU, HAS_TWO_GPUS } from './cuda-device.js';
import { checkSums, put, type Rank, ranksOf, SUM_SHAPES, type SumShape } from './reduce-cases.js';

const BYTES = 1 << 16;

/** More than one round of blocks, and so many bytes that more than two ranks share the work. */
const LARGE: readonly SumShape[] = [
  { tokens: 33, width: 4096, x: 'f32', partial: 'f32', accumulate: true },
  { tokens: 70, width: 2056, x: 'f32', partial: 'bf16', accumulate: true, gap: 16 },
  { tokens: 40, width: 4104, x: 'bf16', partial: 'bf16', accumulate: false },
  { tokens: 9, width: 8191, x: 'f32', partial: 'f32', accumulate: true },
  // A few tokens, up to as many bytes as have their epochs beside them, and more.
  { tokens: 1, width: 8192, x: 'f32', partial: 'f32', accumulate: true },
  { tokens: 8, width: 4096, x: 'f32', partial: 'f32', accumulate: true },
  { tokens: 8, width: 4104, x: 'f32', partial: 'f32', accumulate: false },
  // Rows that a block each sums: some beside each other, some that begin anywhere, and wide ones.
  { tokens: 12, width: 1032, x: 'f32', partial: 'bf16', accumulate: true, gap: 4 },
  { tokens: 11, width: 14336, x: 'f32', partial: 'bf16', accumulate: false },
];

/** A few tokens, and more, of 64 values together. */
const REPEATED_ROWS = [1, 16, 16, 2, 4, 16, 32, 8] as const;

interface Group {
  readonly name: string;
  readonly devices: readonly number[];
  readonly throughHost: boolean;
}
/** Streams of three ranks would be more than one GPU has queues for, and one that waits for another behind it waits for ever. */
const ONE_GPU: readonly Group[] = [
  { name: 'a rank alone', devices: [0], throughHost: false },
  { name: 'two ranks on one GPU', devices: [0, 0], throughHost: false },
  { name: 'two ranks on one GPU, by memory of the host', devices: [0, 0], throughHost: true },
];
const TWO_GPUS: readonly Group[] = [
  { name: 'two GPUs', devices: [0, 1], throughHost: false },
  { name: 'two GPUs, by memory of the host', devices: [0, 1], throughHost: true },
  { name: 'four ranks on two GPUs', devices: [0, 1, 0, 1], throughHost: false },
  { name: 'three ranks on two GPUs, by memory of the host', devices: [0, 1, 0], throughHost: true },
];

/** Runs a test on a group of its own, with room for so many bytes. */
async function on(
  { devices, throughHost }: Group,
  room: number,
  run: (backend: CudaBackend, ends: readonly Exchange[], opened: readonly NativeExchange[]) => Promise<void>,
): Promise<void> {
  const backend = new CudaBackend({ devices });
  const opened = native().openCudaExchange(devices, room, throughHost);
  const ends = opened.map(({ id }, rank) => ({ id, rank, count: devices.length, sizeBytes: room }));
  try {
    await run(backend, ends, opened);
  } finally {
    for (const end of opened) end.close();
    await backend.close();
    for (const end of opened) end.free();
  }
}

/** x += 1 of each rank, so often that batches come again and are graphs; by kernels that wait for flags and others, in turns. */
async function repeats(ranks: readonly Rank[], times: number): Promise<void> {
  const width = 64;
  for (const { device, x, partial, host } of ranks) {
    new Float32Array(host.bytes.buffer, host.bytes.byteOffset, width).fill(1);
    device.compute.copy(x, 0, host, 0, 4 * width);
    device.compute.copy(partial, 0, host, 0, 4 * width);
    device.compute.record();
  }
  for (let turn = 0; turn < times; turn++) {
    for (const { device, exchange, x, partial } of ranks) {
      const reduce = (rows: number) =>
        device.compute.launch({
          ...{ op: 'reduce', exchange, accumulate: true },
          x: tensor(x, 0, 'f32', [rows, width / rows]),
          partial: tensor(partial, 0, 'f32', [rows, width / rows]),
        });
      for (const rows of REPEATED_ROWS) reduce(rows);
      device.compute.record();
    }
  }
  for (const { device, x, out } of ranks) device.compute.copy(out, 0, x, 0, 4 * width);
  await Promise.all(ranks.map(({ device }) => device.compute.record().reached()));
  for (const { out } of ranks) {
    const found = new Float32Array(out.bytes.buffer, out.bytes.byteOffset, width);
    expect(found.every((value) => value === 1 + REPEATED_ROWS.length * times * ranks.length)).toBe(true);
  }
}

/** [tokens, width] += partial of all ranks, and the norm of it: by one kernel or by two, which have the same bits. */
async function checkNormed(ranks: readonly Rank[], tokens: number, width: number): Promise<void> {
  const values = tokens * width;
  const found: Uint8Array[][] = [];
  for (const apart of [true, false]) {
    for (const [rank, { device, exchange, x, partial, host, out }] of ranks.entries()) {
      const bytes = new DataView(host.bytes.buffer, host.bytes.byteOffset);
      for (let at = 0; at < values; at++) {
        bytes.setFloat32(4 * at, (at % 251) / 16 - 7, true);
        put(host, 'bf16', 4 * values + 2 * at, ((at * (rank + 3)) % 127) / 8 - 6);
      }
      for (let at = 0; at < width; at++) put(host, 'bf16', 6 * values + 2 * at, 1 + (at % 13) / 16);
      device.compute.copy(x, 0, host, 0, 4 * values);
      device.compute.copy(partial, 0, host, 4 * values, 2 * (values + width));
      device.compute.record();
      const residual = tensor(x, 0, 'f32', [tokens, width]);
      const summand = tensor(partial, 0, 'bf16', [tokens, width]);
      device.compute.launch({ op: 'reduce', exchange, accumulate: true, x: residual, partial: summand });
      if (apart) device.compute.record();
      device.compute.launch({
        ...{ op: 'rms_norm', x: residual, eps: 1e-5, weightOffset: 0 },
        out: tensor(partial, 2 * (values + width), 'bf16', [tokens, width]),
        weight: tensor(partial, 2 * values, 'bf16', [width]),
      });
      device.compute.copy(out, 0, x, 0, 4 * values);
      device.compute.copy(out, 4 * values, partial, 2 * (values + width), 2 * values);
    }
    await Promise.all(ranks.map(({ device }) => device.compute.record().reached()));
    found.push(ranks.map(({ out }) => out.bytes.slice(0, 6 * values)));
  }
  const [apart = [], together = []] = found;
  for (const [rank, bytes] of together.entries()) {
    expect(bytes.some((byte) => byte !== 0)).toBe(true);
    expect(bytes.findIndex((byte, at) => byte !== apart[rank]?.[at])).toBe(-1);
    expect(bytes.findIndex((byte, at) => byte !== together[0]?.[at])).toBe(-1);
  }
}

function cases(groups: readonly Group[]): void {
  it.each(groups)('are normed by the same kernel with the same bits: $name', (group) =>
    on(group, 4 << 20, async (backend, ends) => {
      const ranks = ranksOf(backend, ends, 2 << 20);
      for (const [tokens, width] of [
        [20, 1024],
        [9, 8192],
      ] as const) {
        await checkNormed(ranks, tokens, width);
      }
    }),
  );

  it.each(groups)('have the bits of f32 in the order of the ranks: $name', (group) =>
    on(group, BYTES, async (backend, ends, opened) => {
      expect(opened[0]?.deviceBytes).toBeLessThanOrEqual(exchangeBytes(group.devices.length, BYTES));
      const ranks = ranksOf(backend, ends, 2 << 20);
      for (const [index, shape] of [...SUM_SHAPES, ...LARGE].entries()) await checkSums(ranks, shape, index);
    }),
  );

  it.each(groups)('in one round where there is room: $name', (group) =>
    on(group, 4 << 20, async (backend, ends) => {
      const ranks = ranksOf(backend, ends, 2 << 20);
      for (const [index, shape] of LARGE.entries()) await checkSums(ranks, shape, index);
    }),
  );

  it.each(groups)('come again as graphs: $name', (group) =>
    on(group, BYTES, (backend, ends) => repeats(ranksOf(backend, ends, BYTES), 300)),
  );

  it.each(groups.filter(({ devices }) => devices.length > 1))(
    'leave nobody waiting when closed: $name',
    (group) =>
      on(group, BYTES, async (backend, ends, opened) => {
        const ranks = ranksOf(backend, ends, BYTES);
        const { device, exchange, x, partial } = present(ranks[1], 'a rank');
        device.compute.launch({
          ...{ op: 'reduce', exchange, accumulate: true },
          ...{ x: tensor(x, 0, 'f32', [1, 64]), partial: tensor(partial, 0, 'f32', [1, 64]) },
        });
        const waiting = device.compute.record().reached();
        const settled = Promise.allSettled([waiting]);
        const closed = backend.close();
        for (const end of opened) end.close();
        await closed;
        expect((await settled)[0]).toMatchObject({ status: 'rejected', reason: { code: 'INTERRUPTED' } });
      }),
  );
}

describe.skipIf(!HAS_GPU)('sums on a GPU', () => {
  cases(ONE_GPU);
});
describe.skipIf(!HAS_TWO_GPUS)('sums on two GPUs', () => {
  cases(TWO_GPUS);
});
