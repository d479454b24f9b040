// Ways to plant a bug between the executor and the simulated backend, without a flag in the code that is tested.

import { present } from '../../offload/errors.js';
import type {
  Backend,
  Device,
  DeviceEvent,
  DeviceStream,
  KeptWork,
  RowCopy,
} from '../../offload/port/backend.js';
import type { Memory, Op } from '../../offload/port/ops.js';
import { BufferPool, type Lease } from '../../offload/stream/pool.js';
import type { SimulatedBackend } from '../simulator/simulated.js';

export type StreamKind = 'compute' | 'fetch' | 'gather' | 'load' | 'store';

/** Where an event was recorded. */
export interface Origin {
  readonly device: number;
  readonly kind: StreamKind;
}

export interface StreamPlants {
  /** Leaves out a wait of stream `on` for an event. */
  readonly dropWait?: (on: Origin, event: Origin) => boolean;
  readonly dropCopy?: (on: Origin) => boolean;
  /** The promise of an event of `on` resolves at once. `afterCopy`: a copy was the last thing queued before it. */
  readonly early?: (on: Origin, afterCopy: boolean) => boolean;
  /** Called before each operation is queued. */
  readonly onLaunch?: (on: Origin, op: Op) => void;
}

class WatchedEvent implements DeviceEvent {
  readonly real: DeviceEvent;
  readonly origin: Origin;
  readonly #early: boolean;
  constructor(real: DeviceEvent, origin: Origin, early: boolean) {
    this.real = real;
    this.origin = origin;
    this.#early = early;
  }
  get timeMs(): number {
    return this.real.timeMs;
  }
  reached(): Promise<void> {
    return this.#early ? Promise.resolve() : this.real.reached();
  }
}

class WatchedWork implements KeptWork {
  readonly real: KeptWork;
  readonly ops: readonly Op[];
  constructor(real: KeptWork, ops: readonly Op[]) {
    this.real = real;
    this.ops = ops;
  }
  get count(): number {
    return this.real.count;
  }
}

class WatchedStream implements DeviceStream {
  readonly #real: DeviceStream;
  readonly #origin: Origin;
  readonly #plants: StreamPlants;
  #afterCopy = false;
  #keeping: Op[] | undefined;
  constructor(real: DeviceStream, origin: Origin, plants: StreamPlants) {
    this.#real = real;
    this.#origin = origin;
    this.#plants = plants;
  }
  launch(op: Op): void {
    this.#afterCopy = false;
    if (this.#keeping) this.#keeping.push(op);
    else this.#plants.onLaunch?.(this.#origin, op);
    this.#real.launch(op);
  }
  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void {
    if (this.#plants.dropCopy?.(this.#origin)) return;
    this.#afterCopy = true;
    this.#real.copy(to, toOffsetBytes, from, fromOffsetBytes, sizeBytes);
  }
  copyRows(copy: RowCopy): void {
    if (this.#plants.dropCopy?.(this.#origin)) return;
    this.#afterCopy = true;
    this.#real.copyRows(copy);
  }
  record(): DeviceEvent {
    const early = this.#plants.early?.(this.#origin, this.#afterCopy) ?? false;
    return new WatchedEvent(this.#real.record(), this.#origin, early);
  }
  wait(event: DeviceEvent): void {
    const { real, origin } = event as WatchedEvent;
    if (!this.#plants.dropWait?.(this.#origin, origin)) this.#real.wait(real);
  }
  keep(queue: () => void): KeptWork {
    const ops: Op[] = [];
    this.#keeping = ops;
    try {
      return new WatchedWork(this.#real.keep(queue), ops);
    } finally {
      this.#keeping = undefined;
    }
  }
  repeat(work: KeptWork): void {
    const { real, ops } = work as WatchedWork;
    this.#afterCopy = false;
    for (const op of ops) this.#plants.onLaunch?.(this.#origin, op);
    this.#real.repeat(real);
  }
}

/** The backend, with its streams watched and parts of it replaced. */
export function withPlants(
  backend: SimulatedBackend,
  plants: StreamPlants,
  replaced: Partial<Pick<Backend, 'read'>> & { readonly allocate?: typeof allocateOn } = {},
): Backend {
  const devices = backend.devices.map((device, index): Device => {
    const watch = (kind: StreamKind) => new WatchedStream(device[kind], { device: index, kind }, plants);
    return {
      name: device.name,
      computesInPlace: device.computesInPlace,
      compute: watch('compute'),
      fetch: watch('fetch'),
      gather: watch('gather'),
      load: watch('load'),
      store: watch('store'),
      allocate: (sizeBytes) => (replaced.allocate ?? allocateOn)(device, sizeBytes),
    };
  });
  return {
    kind: backend.kind,
    devices,
    peers: backend.peers,
    collective: backend.collective,
    notes: backend.notes,
    nowMs: () => backend.nowMs(),
    allocateHost: (sizeBytes, purpose) => backend.allocateHost(sizeBytes, purpose),
    openWorker: (device) => backend.openWorker(device),
    openExchange: (group, sizeBytes) => {
      const real = group.map((device) => present(backend.devices[devices.indexOf(device)], 'a device'));
      return backend.openExchange(real, sizeBytes);
    },
    closeExchange: (ends) => backend.closeExchange(ends),
    openFile: (path) => backend.openFile(path),
    checkFiles: () => backend.checkFiles(),
    filePieces: (pieces, into) => backend.filePieces(pieces, into),
    driveFigures: () => backend.driveFigures(),
    read: replaced.read ?? ((requests, into) => backend.read(requests, into)),
    close: () => backend.close(),
  };
}

function allocateOn(device: Device, sizeBytes: number): Memory {
  return device.allocate(sizeBytes);
}

/** While `run` lasts, every lease that a pool hands out passes through `change`. */
export async function withLeases(
  change: (lease: Lease<unknown>, pool: BufferPool<unknown>) => Lease<unknown>,
  run: () => Promise<void>,
): Promise<void> {
  const { prototype } = BufferPool;
  const original = present(Object.getOwnPropertyDescriptor(prototype, 'acquire'), 'acquire');
  const acquire = original.value as (this: BufferPool<unknown>) => Promise<Lease<unknown>>;
  Object.defineProperty(prototype, 'acquire', {
    ...original,
    value: async function (this: BufferPool<unknown>) {
      return change(await acquire.call(this), this);
    },
  });
  try {
    await run();
  } finally {
    Object.defineProperty(prototype, 'acquire', original);
  }
}

export function originOf(event: DeviceEvent): Origin | undefined {
  return event instanceof WatchedEvent ? event.origin : undefined;
}
