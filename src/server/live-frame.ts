// What the live stream says of the engine: counters and layers, and nothing of anybody's text. Types alone, for both ends.

export type LiveTier = 'gpu' | 'dram' | 'nvme';

/** Once, at the beginning. */
export interface LiveHello {
  readonly model: string;
  readonly placement: string;
  /** Where each layer rests, in the order of a pass. */
  readonly tiers: readonly LiveTier[];
  readonly devices: number;
  /** How often a frame comes while something happens. */
  readonly frameMs: number;
}

export interface LiveHop {
  readonly hop: string;
  readonly owner: string;
  /** Since the frame before. */
  readonly bytesPerSecond: number;
  /** The share of the time since the frame before. */
  readonly busyShare: number;
  /** What it did at best so far, or the limit that was measured where there is one. */
  readonly limitBytesPerSecond: number;
  readonly isMeasured: boolean;
}

export interface LiveFrame {
  /** Since the server began. */
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly batch: { readonly sequences: number; readonly capacity: number };
  /** Texts that nobody has begun. */
  readonly waiting: number;
  readonly openRequests: number;
  /** How much batches have left. */
  readonly stored: { readonly batches: number; readonly requests: number };
  readonly computeShare: number;
  readonly stallShare: number;
  readonly hops: readonly LiveHop[];
  /** Places of the layers that were read, sent to a device, or computed since the frame before. */
  readonly moved: Readonly<Record<'drive' | 'link' | 'compute', readonly number[]>>;
  readonly prefixHitShare: number | null;
  readonly expertHitShare: number | null;
}
