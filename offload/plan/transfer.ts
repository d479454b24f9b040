// How a layer in DRAM reaches several devices, as a plan states it: in shards that they gather, or whole.

/** By whom devices gather shards: copies from peer to peer, NCCL, or nobody. */
export type GatherBy = 'peer' | 'nccl' | 'none';

export interface Transfer {
  /**
   * `shards`: each device pulls its part of a layer over its own link, and the rest is gathered from the others;
   * `whole`: each pulls all of it; `slices`: each pulls what it computes with.
   */
  readonly kind: 'shards' | 'whole' | 'slices';
  /** `none` for whole layers and for slices. */
  readonly by: GatherBy;
  /** Why, in a sentence without a full stop. */
  readonly reason: string;
  /** What gathering takes of each device's memory beside the buffers. */
  readonly deviceBytes: number;
  /** What devices copy from each other, all at once, where that was measured. */
  readonly peerBytesPerSecond?: number;
  /** Some devices cannot reach each other's memory: what they send each other goes through the host. */
  readonly throughHost?: boolean;
}

export function makeTransfer(by: GatherBy, reason: string, deviceBytes = 0): Transfer {
  return { kind: by === 'none' ? 'whole' : 'shards', by, reason, deviceBytes };
}

/** How layers reach the devices of a pipeline. */
export function stagesTransfer(devices: number): Transfer {
  return makeTransfer(
    'none',
    `each of ${devices} devices has consecutive layers, and pulls none but its own over its own link`,
  );
}

/** From how many devices' parts a layer on one of them is put together: a slice is all that it has. */
export function partCount({ kind }: Pick<Transfer, 'kind'>, deviceCount: number): number {
  return kind === 'slices' ? 1 : deviceCount;
}

/** Where nothing was measured: several devices gather. */
export function defaultTransfer(deviceCount: number, computesInPlace: boolean): Transfer {
  if (computesInPlace) return makeTransfer('none', 'devices compute on DRAM in place');
  if (deviceCount === 1) return makeTransfer('none', 'one device pulls every layer over its own link');
  return makeTransfer('peer', `${shardsOf(deviceCount)} by peer copies`);
}

/** For reasons: `each of 4 devices pulls a quarter …`, in figures. */
export function shardsOf(deviceCount: number): string {
  return `each of ${deviceCount} devices pulls 1/${deviceCount} of a layer over its own link and gathers the rest`;
}
