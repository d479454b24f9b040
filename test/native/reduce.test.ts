// Virtual devices that sum together: every bit, any timing, and what becomes of those that wait for one that never comes.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { CpuBackend } from '../../offload/backends/cpu.js';
import { present } from '../../offload/errors.js';
import type { Device } from '../../offload/port/backend.js';
import type { Exchange } from '../../offload/port/exchange.js';
import { native } from '../../offload/port/native.js';
import { tensor } from '../../offload/port/tensor.js';
import { checkSums, ranksOf, SUM_SHAPES } from './reduce-cases.js';

const BYTES = 4096;
const open: CpuBackend[] = [];
function opened(virtualDevices: number, isa?: string): CpuBackend {
  const backend = new CpuBackend({ virtualDevices, threads: 2, ...(isa ? { isa } : {}) });
  open.push(backend);
  return backend;
}
afterEach(async () => {
  await Promise.all(open.splice(0).map((backend) => backend.close()));
});
afterAll(() => {
  native().configureCpu({ threads: 0 });
});

/** x += the sum of all, on a device that has fresh memory. */
function launchSum(device: Device, exchange: Exchange, width = 16): void {
  const [x, partial] = [device.allocate(4 * width), device.allocate(4 * width)];
  device.compute.launch({
    ...{ op: 'reduce', exchange, accumulate: true },
    ...{ x: tensor(x, 0, 'f32', [1, width]), partial: tensor(partial, 0, 'f32', [1, width]) },
  });
}

describe('sums of all devices', () => {
  const sets = native()
    .instructionSets()
    .filter((isa) => ['avx2', 'avx512'].includes(isa));

  it.each(sets)('are those of f32 in the order of the ranks, by %s', async (isa) => {
    for (let devices = 1; devices <= 8; devices++) {
      const backend = opened(devices, isa);
      for (const room of [BYTES, 100]) {
        const ranks = ranksOf(backend, backend.openExchange(backend.devices, room), BYTES);
        for (const [index, shape] of SUM_SHAPES.entries())
          await checkSums(ranks, shape, 100 * devices + index);
      }
      await backend.close();
    }
  });

  it('are the same thousands of times, with devices that come early and late, in one and in several rounds', async () => {
    const [devices, times, width] = [4, 1500, 24];
    const backend = opened(devices);
    for (const room of [BYTES, 40]) {
      const ranks = ranksOf(backend, backend.openExchange(backend.devices, room), BYTES);
      const busy = ranks.map(({ device }) => device.allocate(1 << 16));
      let chance = 1;
      ranks.forEach(({ device, exchange, x, partial, host }, rank) => {
        const values = new Float32Array(host.bytes.buffer, host.bytes.byteOffset, 2 * width);
        values.fill(0, 0, width).fill(rank + 1, width);
        device.compute.copy(x, 0, host, 0, 4 * width);
        device.compute.copy(partial, 0, host, 4 * width, 4 * width);
        for (let turn = 0; turn < times; turn++) {
          chance = Math.imul(chance, 1103515245) + 12345;
          const late = present(busy[rank], 'bytes');
          if ((chance >>> 16) % 7 === 0)
            device.compute.copy(late, 0, late, 1 << 15, (chance >>> 8) % (1 << 15));
          device.compute.launch({
            ...{ op: 'reduce', exchange, accumulate: true },
            x: tensor(x, 0, 'f32', [1, width]),
            partial: tensor(partial, 0, 'f32', [1, width]),
          });
        }
      });
      for (const { device, x, out } of ranks) device.compute.copy(out, 0, x, 0, 4 * width);
      await Promise.all(ranks.map(({ device }) => device.compute.record().reached()));
      for (const { out } of ranks) {
        const found = new Float32Array(out.bytes.buffer, out.bytes.byteOffset, width);
        expect(found.every((value) => value === 10 * times)).toBe(true);
      }
    }
  });

  it('are queued again as kept work', async () => {
    const backend = opened(3);
    const ranks = ranksOf(backend, backend.openExchange(backend.devices, BYTES), BYTES);
    const kept = ranks.map(({ device, exchange, x, partial, host }) => {
      new Float32Array(host.bytes.buffer, host.bytes.byteOffset, 16).fill(1);
      device.compute.copy(x, 0, host, 0, 64);
      device.compute.copy(partial, 0, host, 0, 64);
      return device.compute.keep(() =>
        device.compute.launch({
          ...{ op: 'reduce', exchange, accumulate: true },
          ...{ x: tensor(x, 0, 'f32', [4, 4]), partial: tensor(partial, 0, 'f32', [4, 4]) },
        }),
      );
    });
    for (let turn = 0; turn < 5; turn++) {
      ranks.forEach(({ device }, rank) => {
        device.compute.repeat(present(kept[rank], 'work'));
      });
    }
    for (const { device, x, out } of ranks) device.compute.copy(out, 0, x, 0, 64);
    await Promise.all(ranks.map(({ device }) => device.compute.record().reached()));
    for (const { out } of ranks) {
      expect(
        new Float32Array(out.bytes.buffer, out.bytes.byteOffset, 16).every((value) => value === 16),
      ).toBe(true);
    }
  });

  it('say what does not fit', async () => {
    const backend = opened(2);
    const [first, second] = backend.devices;
    const [end] = backend.openExchange(backend.devices, 64);
    const exchange = present(end, 'an end');
    const memory = present(first, 'device').allocate(64);
    const { compute } = present(first, 'device');
    const x = tensor(memory, 0, 'f32', [2, 4]);
    compute.launch({
      op: 'reduce',
      x,
      partial: tensor(memory, 32, 'f32', [2, 3]),
      exchange,
      accumulate: true,
    });
    expect(() => compute.record()).toThrow(/partial .* must have 4 in dimension 1/);
    const absent = { ...exchange, id: 0 };
    compute.launch({ op: 'reduce', x, partial: x, exchange: absent, accumulate: true });
    expect(() => compute.record()).toThrow('which does not exist or was closed');
    expect(() => backend.openExchange([present(second, 'device')], 3)).toThrow('room for a value');
  });
});

describe('a device that never comes', () => {
  it('fails all where it failed, with its own sentence', async () => {
    const backend = opened(3);
    const exchanges = backend.openExchange(backend.devices, 64);
    const rows = backend.allocateHost(4, 'control');
    new Int32Array(rows.bytes.buffer, rows.bytes.byteOffset, 1).fill(7);
    const broken = present(backend.devices[1], 'device');
    const memory = broken.allocate(64);
    broken.compute.launch({
      ...{ op: 'gather_rows', out: tensor(memory, 0, 'f32', [1, 4]), accumulate: false, scale: 1 },
      ...{ table: tensor(memory, 16, 'f32', [2, 4]), rows: tensor(rows, 0, 'i32', [1]) },
    });
    backend.devices.forEach((device, rank) => {
      launchSum(device, present(exchanges[rank], 'an end'));
    });
    const ends = await Promise.allSettled(backend.devices.map(({ compute }) => compute.record().reached()));
    for (const end of ends) {
      expect(String((end as PromiseRejectedResult).reason)).toMatch(/cpu:1 compute.*gather_rows/);
    }
  });

  it('keeps nobody waiting when the backend is closed', async () => {
    const backend = opened(3);
    const exchanges = backend.openExchange(backend.devices, 64);
    const waiting = backend.devices.slice(1).map((device, index) => {
      launchSum(device, present(exchanges[index + 1], 'an end'));
      return device.compute.record().reached();
    });
    const settled = Promise.allSettled(waiting);
    await backend.close();
    for (const end of await settled) {
      expect((end as PromiseRejectedResult).reason).toMatchObject({ code: 'INTERRUPTED' });
    }
  });

  it('is no other: those who sum something else are told', async () => {
    const backend = opened(2);
    const exchanges = backend.openExchange(backend.devices, 256);
    backend.devices.forEach((device, rank) => {
      launchSum(device, present(exchanges[rank], 'an end'), 16 + rank);
    });
    const ends = await Promise.allSettled(backend.devices.map(({ compute }) => compute.record().reached()));
    for (const end of ends)
      expect(String((end as PromiseRejectedResult).reason)).toContain('sums something else');
  });
});
