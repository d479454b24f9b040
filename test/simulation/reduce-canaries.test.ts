// Devices that sum together, on a virtual clock: all have the same values however they are timed, and planted bugs are caught.

import { afterEach, describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { tensor } from '../../offload/port/tensor.js';
import { SimulatedExchange } from '../simulator/rank-exchange.js';
import { DeadlockError, HazardError, SimulatedBackend } from '../simulator/simulated.js';

const [TOKENS, WIDTH, REDUCES] = [2, 6, 8];
const BYTES = 4 * TOKENS * WIDTH;

interface Plan {
  readonly deviceCount: number;
  readonly roomBytes: number;
  /** A device that leaves out its last reduce. */
  readonly idle?: number;
  readonly breaks?: (device: number, kernel: number) => boolean;
}

/** Residuals of all devices after some reduces of fresh partials. */
async function play(seed: number, { deviceCount, roomBytes, idle, breaks }: Plan): Promise<Uint8Array[]> {
  const backend = new SimulatedBackend({
    ...{ seed, deviceCount, computesInPlace: false, files: new Map() },
    ...(breaks ? { breaks } : {}),
  });
  try {
    const ends = backend.openExchange(backend.devices, roomBytes);
    const own = backend.devices.map((device, rank) => {
      const [x, partial] = [device.allocate(BYTES), device.allocate(BYTES)];
      const fresh = Array.from({ length: REDUCES }, (_, turn) => {
        const host = backend.allocateHost(BYTES, 'control');
        host.bytes.fill(1 + rank + 16 * turn);
        return host;
      });
      const zeros = backend.allocateHost(BYTES, 'control');
      zeros.bytes.fill(0);
      device.compute.copy(x, 0, zeros, 0, BYTES);
      return { x, partial, fresh, out: backend.allocateHost(BYTES, 'control') };
    });
    for (let turn = 0; turn < REDUCES; turn++) {
      backend.devices.forEach(({ compute }, rank) => {
        const { x, partial, fresh } = present(own[rank], 'own');
        compute.copy(partial, 0, present(fresh[turn], 'bytes'), 0, BYTES);
        if (rank === idle && turn === REDUCES - 1) return;
        compute.launch({
          op: 'reduce',
          x: tensor(x, 0, 'f32', [TOKENS, WIDTH]),
          partial: tensor(partial, 0, 'f32', [TOKENS, WIDTH]),
          exchange: present(ends[rank], 'an end'),
          accumulate: turn % 3 > 0,
        });
      });
    }
    const ended = backend.devices.map(({ compute }, rank) => {
      const { x, out } = present(own[rank], 'own');
      compute.copy(out, 0, x, 0, BYTES);
      return compute.record().reached();
    });
    await backend.until(Promise.all(ended), 'sums');
    return own.map(({ out }) => out.bytes);
  } finally {
    await backend.close();
  }
}

/** Share of seeds in which something is noticed: a hazard, a deadlock, or other values than those of `sound`. */
async function caught(plan: Plan, sound: Uint8Array, seeds = 20): Promise<number> {
  let count = 0;
  for (let seed = 1; seed <= seeds; seed++) {
    try {
      const found = await play(seed, plan);
      if (found.some((bytes) => Buffer.compare(bytes, sound) !== 0)) count++;
    } catch (error) {
      if (!(error instanceof HazardError || error instanceof DeadlockError)) throw error;
      count++;
    }
  }
  return count / seeds;
}

describe('sums of all devices', () => {
  const { parityOf, hasCome } = SimulatedExchange.prototype;
  afterEach(() => {
    Object.assign(SimulatedExchange.prototype, { parityOf, hasCome });
  });

  it('are the same on all of them, whatever the timing and in however many rounds', async () => {
    for (const deviceCount of [1, 2, 3, 8]) {
      const [sound = new Uint8Array()] = await play(1, { deviceCount, roomBytes: BYTES });
      for (const roomBytes of [BYTES, 20]) expect(await caught({ deviceCount, roomBytes }, sound, 5)).toBe(0);
    }
  });

  it('depend on every device', async () => {
    const sums = await Promise.all(
      [2, 3, 4].map((deviceCount) => play(1, { deviceCount, roomBytes: BYTES })),
    );
    expect(new Set(sums.map(([first]) => Buffer.from(first ?? []).toString('hex'))).size).toBe(3);
  });

  it('a device that does not wait for the others is caught', async () => {
    const [sound = new Uint8Array()] = await play(1, { deviceCount: 3, roomBytes: BYTES });
    SimulatedExchange.prototype.hasCome = () => true;
    expect(await caught({ deviceCount: 3, roomBytes: BYTES }, sound)).toBeGreaterThan(0.9);
  });

  it('a place that is written again a round too early is caught', async () => {
    const [sound = new Uint8Array()] = await play(1, { deviceCount: 3, roomBytes: BYTES });
    SimulatedExchange.prototype.parityOf = () => 0;
    expect(await caught({ deviceCount: 3, roomBytes: BYTES }, sound)).toBeGreaterThan(0.3);
  });

  it('a device that never comes is a deadlock that names who waits', async () => {
    const stuck = play(1, { deviceCount: 3, roomBytes: BYTES, idle: 1 });
    await expect(stuck).rejects.toThrow(/sim:0 compute waits for the others of reduce/);
  });

  it('a device that fails fails all, with its own sentence', async () => {
    for (let kernel = 0; kernel < REDUCES; kernel++) {
      const broken = play(kernel, {
        ...{ deviceCount: 4, roomBytes: BYTES },
        breaks: (device, at) => device === 2 && at === kernel,
      });
      await expect(broken).rejects.toThrow(/sim:2 compute #\d+\) broke off/);
    }
  });
});
