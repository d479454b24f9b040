// Buffers change hands in order, once each, with what the next holder must wait for.

import { describe, expect, it } from 'vitest';
import type { DeviceEvent } from '../../offload/port/backend.js';
import { BufferPool } from '../../offload/stream/pool.js';

function event(): DeviceEvent {
  return { timeMs: Number.NaN, reached: () => Promise.resolve() };
}

describe('BufferPool', () => {
  it('hands out every buffer once and counts what is out', async () => {
    const pool = new BufferPool('test', ['a', 'b', 'c']);
    const leases = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
    expect(new Set(leases.map(({ buffer }) => buffer))).toEqual(new Set(['a', 'b', 'c']));
    expect([pool.leased, pool.canAcquire()]).toEqual([3, false]);
    for (const lease of leases) lease.release();
    expect([pool.leased, pool.canAcquire()]).toEqual([0, true]);
  });

  it('serves those who wait in the order they came', async () => {
    const pool = new BufferPool('test', ['only']);
    const order: number[] = [];
    const first = await pool.acquire();
    const waiting = [1, 2, 3].map(async (number) => {
      const lease = await pool.acquire();
      order.push(number);
      lease.release();
    });
    first.release();
    await Promise.all(waiting);
    expect(order).toEqual([1, 2, 3]);
    expect(pool.leased).toBe(0);
  });

  it('passes on what the next writer must wait for, to one who waits and to one who comes later', async () => {
    const pool = new BufferPool('test', ['only']);
    const [one, two] = [event(), event()];
    const first = await pool.acquire();
    expect(first.after).toEqual([]);
    const waiting = pool.acquire();
    first.release([one]);
    const second = await waiting;
    expect(second.after).toEqual([one]);
    second.release([one, two]);
    expect((await pool.acquire()).after).toEqual([one, two]);
  });

  it('takes a release once only, also when the buffer is out again', async () => {
    const pool = new BufferPool('test', ['only']);
    const lease = await pool.acquire();
    lease.release();
    await pool.acquire();
    expect(() => lease.release()).toThrow(/released once/);
    expect(pool.leased).toBe(1);
  });

  it('rejects those who wait and all who come once it is closed; leases that are out still come back', async () => {
    const pool = new BufferPool('test', ['only']);
    const lease = await pool.acquire();
    const waiting = pool.acquire();
    const reason = new Error('closed');
    pool.close(reason);
    pool.close(new Error('later'));
    await expect(waiting).rejects.toBe(reason);
    await expect(pool.acquire()).rejects.toBe(reason);
    lease.release();
    expect([pool.leased, pool.canAcquire()]).toEqual([0, false]);
  });

  it('is never without buffers', () => {
    expect(() => new BufferPool('empty', [])).toThrow(/has buffers/);
  });

  it('never has one buffer out twice, whatever the order of releases', async () => {
    const buffers = [0, 1, 2, 3, 4];
    const pool = new BufferPool('test', buffers);
    const out = new Set<number>();
    const worker = async (steps: number) => {
      for (let step = 0; step < steps; step++) {
        const lease = await pool.acquire();
        expect(out.has(lease.buffer)).toBe(false);
        out.add(lease.buffer);
        for (let turn = 0; turn < (step * 7 + lease.buffer) % 5; turn++) await null;
        out.delete(lease.buffer);
        lease.release();
      }
    };
    await Promise.all(Array.from({ length: 12 }, (_, index) => worker(20 + index)));
    expect(pool.leased).toBe(0);
  });
});
