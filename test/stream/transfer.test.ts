// How layers reach several devices: both ways bring every byte, and the choice follows what was measured or described.

import { describe, expect, it } from 'vitest';
import {
  CpuBackend,
  decideTransfer,
  GiB,
  type HardwareProfile,
  MiB,
  makePlan,
  makeTransfer,
  measureTransfer,
  type Plan,
} from '../../offload/index.js';
import { chooseTransfer } from '../../offload/measure/transfer.js';
import { cutShards, type DeviceLayout, gatheredBytes } from '../../offload/model/layout.js';
import type { GatherBy } from '../../offload/plan/transfer.js';
import type { Backend } from '../../offload/port/backend.js';
import { queueTransfer } from '../../offload/stream/transfer.js';
import { transferFor } from '../../src/engine/devices.js';
import { describedTransfer } from '../../src/report/plan-report.js';
import { optionsFor } from '../helpers/plan-options.js';
import { makeToyModel } from '../simulation/toy-model.js';
import { simulated } from '../simulator/memory.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

const SIZES = [256, 512, 768, 1024, 25_600];

/** A layer of two copies with a gap between them. */
function layoutOf(sizeBytes: number): DeviceLayout {
  const first = Math.floor(sizeBytes / 2) - 56;
  return {
    sizeBytes,
    placements: [],
    slices: [],
    copies: [
      { hostOffset: 8, deviceOffset: 0, sizeBytes: first },
      { hostOffset: 100 + first, deviceOffset: first + 40, sizeBytes: sizeBytes - first - 40 },
    ],
  };
}

function simulatedBackend(seed: number, deviceCount: number, peerAccess = true): SimulatedBackend {
  return new SimulatedBackend({ seed, deviceCount, computesInPlace: false, files: new Map(), peerAccess });
}

describe('a layer of any size', () => {
  it.each(['peer', 'nccl', 'none'] as const)('gather %s: lies whole on every device', async (by) => {
    for (const deviceCount of [2, 3, 8]) {
      for (const [seed, sizeBytes] of SIZES.entries()) {
        const backend = simulatedBackend(seed, deviceCount);
        const layout = layoutOf(sizeBytes);
        const from = backend.allocateHost(sizeBytes + 200, 'control');
        from.bytes.forEach((_, at) => {
          from.bytes[at] = (at * 31 + (at >> 8)) & 0xff;
        });
        const targets = backend.devices.map((device) => ({
          buffer: device.allocate(gatheredBytes(sizeBytes, deviceCount)),
          after: [],
        }));
        const lanes: string[] = [];
        const arrivals = queueTransfer({
          backend,
          by,
          layout,
          from,
          targets,
          tell: ({ lane, device, bytes }) => lanes.push(`${lane} ${device.name} ${bytes}`),
        });
        const events = arrivals.flatMap(({ fetched, gathered }) => [fetched, gathered]);
        await backend.until(Promise.all(events.map((event) => event.reached())), 'the layer');
        for (const { buffer } of targets) {
          const there = simulated(buffer).bytes;
          for (const { hostOffset, deviceOffset, sizeBytes: bytes } of layout.copies) {
            expect(there.subarray(deviceOffset, deviceOffset + bytes)).toEqual(
              from.bytes.subarray(hostOffset, hostOffset + bytes),
            );
          }
        }
        const perDevice = by === 'none' ? 1 : 2;
        expect(lanes.length).toBe(perDevice * deviceCount);
        await backend.close();
      }
    }
  });

  it('equal shards fit into the room for it, and cover it', () => {
    for (const count of [1, 2, 3, 7, 8]) {
      for (const sizeBytes of SIZES) {
        const shards = cutShards(sizeBytes, count);
        const room = gatheredBytes(sizeBytes, count);
        expect(room).toBeGreaterThanOrEqual(sizeBytes);
        expect(room).toBeLessThan(sizeBytes + count * 256);
        expect(shards.reduce((sum, { startBytes, endBytes }) => sum + endBytes - startBytes, 0)).toBe(
          sizeBytes,
        );
        expect(
          shards.every(({ startBytes }, g) => startBytes === Math.min(sizeBytes, (g * room) / count)),
        ).toBe(true);
      }
    }
  });
});

describe('the choice', () => {
  it('measures what then is faster', async () => {
    const seen = new Set<string>();
    for (let seed = 1; seed <= 60; seed++) {
      const times = await timesOf(simulatedBackend(seed, 3));
      const { by } = chooseTransfer(3, times);
      seen.add(by);
      // A second look, with other delays, finds the same unless it is close.
      const again = await timesOf(simulatedBackend(seed, 3));
      expect(again).toEqual(times);
      const ratio = times.shardsMs / times.wholeMs;
      expect(by).toBe(ratio < 0.9 ? 'peer' : 'none');
    }
    expect(seen).toEqual(new Set(['peer', 'none']));
  });

  it('says what was measured', () => {
    const times = { wholeMs: 1.25, shardsMs: 0.625, layerBytes: 32 * MiB, peerBytesPerSecond: 120e9 };
    expect(chooseTransfer(2, times)).toMatchObject({ kind: 'shards', by: 'peer', peerBytesPerSecond: 120e9 });
    expect(chooseTransfer(2, times).reason).toMatch(
      /each of 2 devices pulls 1\/2 .* 32\S* MiB measured in 0\.63 ms \(.*\), whole over every link in 1\.25 ms/,
    );
    const slow = chooseTransfer(4, { ...times, shardsMs: 1.2 });
    expect(slow).toMatchObject({ kind: 'whole', by: 'none' });
    expect(slow.reason).toMatch(
      /each of 4 devices pulls whole layers .* in 1\.25 ms .*, in shards .* 1\.20 ms/,
    );
  });

  it('without peer access every device pulls whole layers, unless peers are asked for', async () => {
    const backend = simulatedBackend(1, 3, false);
    const auto = await decideTransfer(backend, 'auto');
    expect(auto).toMatchObject({ kind: 'whole', by: 'none', throughHost: true });
    expect(auto.reason).toContain("sim:0 and sim:1 cannot reach each other's memory (no peer access)");
    expect((await decideTransfer(backend, 'peer')).reason).toMatch(/although sim:0 and sim:1 .* the host/);
    expect(await decideTransfer(backend, 'nccl')).toMatchObject({ by: 'nccl' });
    expect(await decideTransfer(backend, 'none')).toMatchObject({ by: 'none' });
  });

  it('is measured on real copies too', async () => {
    const backend = new CpuBackend({ virtualDevices: 2, threads: 1 });
    const times = await measureTransfer(backend, 'peer', MiB);
    expect(times.wholeMs).toBeGreaterThan(0);
    expect(times.shardsMs).toBeGreaterThan(0);
    expect(times.peerBytesPerSecond).toBeGreaterThan(0);
    await backend.close();
  });

  it('of one device, or of devices in place, needs none', async () => {
    const workload = { sequences: 1, contextTokens: 1, promptTokens: 1, output: 'tokens' } as const;
    const options = { offload: 'dram', workload } as const;
    expect((await transferFor(options)).reason).toMatch(/in place/);
    expect((await transferFor({ ...options, cpu: { virtualDevices: 1 } })).reason).toMatch(/one device/);
    expect(await transferFor({ ...options, cpu: { virtualDevices: 4 } })).toMatchObject({ by: 'peer' });
    const nccl = transferFor({ ...options, cpu: { virtualDevices: 4 }, gather: 'nccl' });
    await expect(nccl).rejects.toMatchObject({ code: 'BAD_OPTION' });
    const given = makeTransfer('none', 'given');
    expect(await transferFor({ ...options, cpu: { virtualDevices: 4 }, plan: { transfer: given } })).toBe(
      given,
    );
  });
});

it('what gathering takes of a device is planned, and of whole layers nothing is gathered', () => {
  const { model } = makeToyModel(new Random(1), 4);
  const workload = { sequences: 2, contextTokens: 8, promptTokens: 8, output: 'tokens' } as const;
  const planned = (by: GatherBy, deviceBytes: number, deviceCount = 3, layersAtRest = 0) =>
    makePlan(model, workload, {
      ...optionsFor('nvme', { computesInPlace: false, deviceCount }),
      deviceResident: { layers: layersAtRest },
      transfer: makeTransfer(by, 'given', deviceBytes),
    });
  const bytes = ({ terms }: Plan) =>
    terms.reduce((sum, term) => sum + (term.tier === 'gpu' ? term.bytes : 0), 0);
  const [peer, nccl, none] = [planned('peer', 0), planned('nccl', 5 * MiB), planned('none', 0)];
  expect(bytes(nccl)).toBe(bytes(peer) + 5 * MiB);
  expect(nccl.terms).toContainEqual(
    expect.objectContaining({ tier: 'gpu', name: 'gathering', bytes: 5 * MiB }),
  );
  expect(none.deviceBuffers.count).toBe(peer.deviceBuffers.count);
  // Where layers may rest, one more buffer is not worth one of them.
  expect(planned('none', 0, 3, 1).deviceBuffers.count).toBe(planned('peer', 0, 3, 1).deviceBuffers.count - 1);
  // A device alone gathers nothing, whatever is asked for.
  expect(planned('nccl', 5 * MiB, 1).transfer).toMatchObject({ kind: 'whole', by: 'none', deviceBytes: 0 });
});

describe('a described machine', () => {
  const devices = {
    kind: 'gpu',
    count: 4,
    memoryBytes: 80 * GiB,
    linkBytesPerSecond: 50e9,
    peerBytesPerSecond: 300e9,
  } as const satisfies HardwareProfile['devices'];

  it.each<[Partial<HardwareProfile['devices']>, GatherBy, RegExp]>([
    [{}, 'peer', /1\/4 .* peers reach each other/],
    [{ peerBytesPerSecond: null }, 'none', /names no fast link/],
    [{ peerBytesPerSecond: 30e9 }, 'none', /only/],
    [{ count: 1 }, 'none', /one device/],
    [{ kind: 'cpu' }, 'none', /in place/],
  ])('%o: %s', (change, by, reason) => {
    const transfer = describedTransfer({ ...devices, ...change });
    expect(transfer.by).toBe(by);
    expect(transfer.reason).toMatch(reason);
  });

  it('is asked for something', () => {
    for (const by of ['peer', 'nccl', 'none'] as const) {
      expect(describedTransfer(devices, by)).toMatchObject({ by });
      expect(describedTransfer(devices, by).reason).toContain(`as --gather ${by} asks`);
    }
  });
});

async function timesOf(backend: SimulatedBackend & Backend) {
  const times = await backend.until(measureTransfer(backend, 'peer', 65_536), 'measuring');
  await backend.close();
  return times;
}
