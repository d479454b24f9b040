// Planted bugs around experts that rest on the drive, with slots on the device and in DRAM between.

import { afterEach, describe, expect, it } from 'vitest';
import { ExchangeCall, FindCall } from '../simulator/exchange.js';
import { SimulatedPieces } from '../simulator/slots.js';
import { SimulatedWorker } from '../simulator/worker.js';
import { caught, EXCHANGING } from './caught.js';
import { World, type WorldOptions } from './world.js';

/** Share of seeds in which a bug is caught. */
async function share(options: WorldOptions = {}): Promise<number> {
  return (await caught({ ...EXCHANGING, ...options }, undefined, 15)).share;
}

it('finds nothing where nothing is planted, and exchanges', async () => {
  for (const dramSlots of ['few', 'all'] as const) expect(await share({ dramSlots })).toBe(0);
  let exchanged = 0;
  const { write } = ExchangeCall.prototype;
  ExchangeCall.prototype.write = function () {
    if (this.writes.length > this.reads.length / 2) exchanged++;
    write.call(this);
  };
  try {
    expect(await share()).toBe(0);
  } finally {
    ExchangeCall.prototype.write = write;
  }
  expect(exchanged).toBeGreaterThan(15);
});

describe('what is not there yet', () => {
  const { read } = SimulatedPieces.prototype;
  const isBusy = Object.getOwnPropertyDescriptor(SimulatedWorker.prototype, 'isBusy') ?? {};
  afterEach(() => {
    SimulatedPieces.prototype.read = read;
    Object.defineProperty(SimulatedWorker.prototype, 'isBusy', isBusy);
  });

  it('a place is said before the read has landed', async () => {
    SimulatedPieces.prototype.read = function (piece, at) {
      read.call(this, piece, at).catch(() => undefined);
      return Promise.resolve();
    };
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('a device exchanges without waiting for the host', async () => {
    Object.defineProperty(SimulatedWorker.prototype, 'isBusy', { ...isBusy, get: () => false });
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('all but the experts, of which whole layers are taken for the rest', async () => {
    const alter: WorldOptions['alter'] = (scenario) => {
      const layers = scenario.plan.layers.map((layer) => {
        const { experts, layout } = layer;
        if (!experts?.files) return layer;
        return { ...layer, experts: { ...experts, files: { ...experts.files, base: layout.host } } };
      });
      return { ...scenario, plan: { ...scenario.plan, layers } };
    };
    // More is read and copied than a device has room for, or nothing else is wrong: the bytes are the same.
    expect(await share({ alter })).toBe(0);
  });
});

describe('who lies where', () => {
  const { leave, tell } = FindCall.prototype;
  const { write } = ExchangeCall.prototype;
  afterEach(() => {
    Object.assign(FindCall.prototype, { leave, tell });
    ExchangeCall.prototype.write = write;
  });

  it('both tiers say that they have one', async () => {
    FindCall.prototype.leave = () => undefined;
    expect(await share({ dramSlots: 'all' })).toBeGreaterThan(0.3);
  });

  it('who leaves the device is lost on the way', async () => {
    ExchangeCall.prototype.write = function () {
      const kept = this.writes.map(({ memory, start, end }) => ({
        memory,
        start,
        bytes: memory.bytes.slice(start, end),
      }));
      write.call(this);
      for (const { memory, start, bytes } of kept)
        if (memory.device === undefined) memory.bytes.set(bytes, start);
    };
    expect(await share({ dramSlots: 'all', passes: 9 })).toBeGreaterThan(0.15);
  });

  it('parts are looked for where those of the leaving one began', async () => {
    const alter: WorldOptions['alter'] = (scenario) => {
      const layers = scenario.plan.layers.map((layer) => {
        const { files } = layer.experts ?? {};
        if (!layer.experts || !files) return layer;
        const partOffsets = files.partOffsets.map((offsets) => [...offsets].reverse());
        return { ...layer, experts: { ...layer.experts, files: { ...files, partOffsets } } };
      });
      return { ...scenario, plan: { ...scenario.plan, layers } };
    };
    expect(await share({ alter })).toBeGreaterThan(0.3);
  });
});

it('a read that fails ends the pass, and nobody waits', async () => {
  let failed = 0;
  for (let seed = 1; seed <= 12; seed++) {
    const { read } = SimulatedPieces.prototype;
    let left = seed;
    SimulatedPieces.prototype.read = function (piece, at) {
      const fails = --left === 0;
      return read.call(this, piece, at).then(() => {
        if (fails) throw new Error('EIO');
      });
    };
    try {
      await new World(seed, EXCHANGING).playAll();
    } catch (error) {
      expect(String(error)).toMatch(/EIO|processor failed/);
      failed++;
    } finally {
      SimulatedPieces.prototype.read = read;
    }
  }
  expect(failed).toBeGreaterThan(4);
});
