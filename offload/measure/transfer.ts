// Decides whether devices fetch layers in shards or whole, by doing both with as many bytes and comparing.

import { OperatingError, present } from '../errors.js';
import type { DeviceLayout } from '../model/layout.js';
import { type GatherBy, makeTransfer, shardsOf, type Transfer } from '../plan/transfer.js';
import type { Backend, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import { queueTransfer } from '../stream/transfer.js';
import { formatBytes, formatRate, MiB } from '../units.js';

/** What the caller asks for; `auto`: shards by peer copies where they are measured to be faster. */
export type GatherWish = 'auto' | GatherBy;

/** The pretended layer's size: a shard of it is long enough for the link's full rate. */
const LAYER_BYTES = 32 * MiB;
const ROUNDS = 6;
/** As for shards in a plan: one computes, one is gathered, one is fetched. */
const BUFFERS = 3;
/** Shards couple devices, so they must be faster by more than what is noise. */
const WORTHWHILE = 0.9;

export interface TransferTimes {
  readonly wholeMs: number;
  readonly shardsMs: number;
  readonly layerBytes: number;
  /** What each copies from the next one, while all copy. */
  readonly peerBytesPerSecond: number;
}

/**
 * Milliseconds per layer of both ways, with all devices at work at once. Takes three buffers of 32 MiB of every device,
 * one of page-locked host memory, and some tens of milliseconds; the backend must be idle.
 */
export async function measureTransfer(
  backend: Backend,
  by: 'peer' | 'nccl',
  layerBytes = LAYER_BYTES,
): Promise<TransferTimes> {
  const from = backend.allocateHost(layerBytes, 'cache');
  const buffers = backend.devices.map((device) =>
    Array.from({ length: BUFFERS }, () => device.allocate(layerBytes)),
  );
  const layout: DeviceLayout = {
    sizeBytes: layerBytes,
    placements: [],
    slices: [],
    copies: [{ hostOffset: 0, deviceOffset: 0, sizeBytes: layerBytes }],
  };
  const trial = { backend, layout, from, buffers };
  // The first rounds touch what later ones reuse.
  await timeRounds(trial, by, 1);
  const shardsMs = await timeRounds(trial, by, ROUNDS);
  const wholeMs = await timeRounds(trial, 'none', ROUNDS);
  return { wholeMs, shardsMs, layerBytes, peerBytesPerSecond: await timePeers(trial) };
}

interface Trial {
  readonly backend: Backend;
  readonly layout: DeviceLayout;
  readonly from: HostMemory;
  /** Per device. */
  readonly buffers: readonly (readonly Memory[])[];
}

/** From the first fetch that begins until all layers are on all devices, per layer. */
async function timeRounds(
  { backend, layout, from, buffers }: Trial,
  by: GatherBy,
  rounds: number,
): Promise<number> {
  const begun = backend.devices.map((device) => device.fetch.record());
  const queued: ReturnType<typeof queueTransfer>[] = [];
  for (let round = 0; round < rounds; round++) {
    const before = queued[round - BUFFERS] ?? [];
    const after = before.flatMap(({ fetched, gathered }) => [fetched, gathered]);
    const targets = buffers.map((own) => ({ buffer: present(own[round % BUFFERS], 'buffer'), after }));
    queued.push(queueTransfer({ backend, by, layout, from, targets, tell: () => undefined }));
  }
  const ends = queued.flat().flatMap(({ fetched, gathered }) => [fetched, gathered]);
  await Promise.all(ends.map((event) => event.reached()));
  const startMs = Math.min(...begun.map(({ timeMs }) => timeMs));
  return (Math.max(...ends.map(({ timeMs }) => timeMs)) - startMs) / rounds;
}

/** Bytes per second of the slowest device, while each copies a layer from the next one. */
async function timePeers({ backend: { devices }, layout: { sizeBytes }, buffers }: Trial): Promise<number> {
  const spans = devices.map(({ gather }, g) => {
    const from = present(buffers[(g + 1) % devices.length]?.[1], 'a buffer');
    const begun = gather.record();
    for (let round = 0; round < ROUNDS; round++) {
      gather.copy(present(buffers[g]?.[0], 'a buffer'), 0, from, 0, sizeBytes);
    }
    return [begun, gather.record()] as const;
  });
  await Promise.all(spans.map(([, ended]) => ended.reached()));
  const slowestMs = Math.max(...spans.map(([begun, ended]) => ended.timeMs - begun.timeMs));
  return (ROUNDS * sizeBytes) / (slowestMs / 1e3);
}

/** Rejects with NO_DEVICE or DEVICE_FAILED. */
export async function decideTransfer(backend: Backend, wish: GatherWish): Promise<Transfer> {
  const apart = unreachable(backend);
  const decided = await decide(backend, wish, apart);
  return apart === undefined ? decided : { ...decided, throughHost: true };
}

async function decide(backend: Backend, wish: GatherWish, apart: string | undefined): Promise<Transfer> {
  const { devices, collective } = backend;
  if (wish === 'none') return makeTransfer('none', `${wholeOf(devices.length)}, as --gather none asks`);
  if (wish === 'nccl') {
    const { deviceBytes } = present(collective, 'NCCL');
    return makeTransfer('nccl', `${shardsOf(devices.length)} by NCCL, as --gather nccl asks`, deviceBytes);
  }
  if (wish === 'peer') {
    const how = apart === undefined ? '' : `, although ${apart}, so that copies go through the host`;
    return makeTransfer('peer', `${shardsOf(devices.length)} by peer copies, as --gather peer asks${how}`);
  }
  if (apart !== undefined) return makeTransfer('none', `${wholeOf(devices.length)}, because ${apart}`);
  const times = await measured(backend);
  return chooseTransfer(devices.length, times);
}

/** By the times alone; where shards are hardly faster, devices had better not wait for each other. */
export function chooseTransfer(deviceCount: number, times: TransferTimes): Transfer {
  const { wholeMs, shardsMs, layerBytes, peerBytesPerSecond } = times;
  const took = (ms: number) => `${ms.toFixed(2)} ms (${formatRate(layerBytes / (ms / 1e3))})`;
  const size = formatBytes(layerBytes);
  const transfer =
    shardsMs < wholeMs * WORTHWHILE
      ? makeTransfer(
          'peer',
          `${shardsOf(deviceCount)} by peer copies: ${size} measured in ${took(shardsMs)}, whole over every link in ${took(wholeMs)}`,
        )
      : makeTransfer(
          'none',
          `${wholeOf(deviceCount)}: ${size} measured in ${took(wholeMs)}, in shards with peer copies in ${took(shardsMs)}`,
        );
  return { ...transfer, peerBytesPerSecond };
}

async function measured(backend: Backend): Promise<TransferTimes> {
  try {
    return await measureTransfer(backend, 'peer');
  } catch (error) {
    if (error instanceof OperatingError) throw error;
    throw new OperatingError('DEVICE_FAILED', `copies to and between the devices failed: ${String(error)}`, {
      cause: error,
    });
  }
}

export function wholeOf(deviceCount: number): string {
  return `each of ${deviceCount} devices pulls whole layers over its own link`;
}

/** The first pair without peer access, as a clause; undefined where all have it. */
function unreachable({ devices, peers }: Backend): string | undefined {
  for (const [a, row] of peers.entries()) {
    const b = row.indexOf(false);
    if (b >= 0)
      return `${devices[a]?.name} and ${devices[b]?.name} cannot reach each other's memory (no peer access)`;
  }
  return undefined;
}
