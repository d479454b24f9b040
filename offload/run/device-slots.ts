// A device's slots for experts, the tables that say who lies where, and what the forward takes of them.

import { assert, present } from '../errors.js';
import { expertOf, placesOf } from '../model/experts.js';
import type { ExpertsInSlots } from '../model/forward-options.js';
import type { MatrixSpec } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { type InSlots, weightOf } from '../model/weights.js';
import type { Plan, PlannedExperts, PlannedLayer, SlotPlan } from '../plan/plan.js';
import { slotWords, totalWords } from '../plan/slots.js';
import type { Backend, Device, HostMemory, HostWorker } from '../port/backend.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { FilePieces, PieceStats } from '../port/file-pieces.js';
import type { SlotsOfFiles } from '../port/mixture-ops.js';
import type { Memory, SlotTables, Tensor } from '../port/ops.js';
import type { ShareRates } from '../port/shares.js';
import { rows, tensor } from '../port/tensor.js';
import type { ExpertHome } from '../stream/staged-layer.js';
import type { WeightSource } from '../stream/weight-source.js';
import { DramSlots } from './dram-slots.js';
import { HostParts } from './host-parts.js';

/** What is counted of a layer: experts that lay in a slot, that were brought into one, that the host computed. */
const COUNTS = 3;
/** Uses are halved after so many passes: native/ops/slots.h. */
const AGE_PASSES = 32;

export interface DeviceSlotsOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly source: WeightSource;
}

/** How often a chosen expert lay in a slot already, and how often it did not; and of these, how many the host computed or had. */
export interface SlotCounts {
  readonly hits: number;
  readonly misses: number;
  readonly computedByHost: number;
  /** In a slot of DRAM, where experts rest on the drive and come to a device. */
  readonly inDram: number;
  /** What came from files. */
  readonly read: PieceStats;
}

export class DeviceSlots {
  readonly #device: Device;
  readonly #slots: SlotPlan;
  readonly #memory: Memory;
  /** Tables as they begin, and then what is read of them. */
  readonly #host: HostMemory;
  readonly #tables: SlotTables;
  /** i32 [layers with experts, 3] */
  readonly #counts: Tensor;
  /** By the first key of a layer. */
  readonly #layers: ReadonlyMap<number, { readonly places: Tensor; readonly counts: Tensor }>;
  readonly #ageCalls: number;
  /** Undefined where the host computes nothing. */
  readonly #parts: HostParts | undefined;
  /** Undefined where experts come from DRAM, or are computed on there. */
  readonly #behind: DramSlots | undefined;
  /** The experts of all layers, by their keys, which are read into these slots; undefined where others have them. */
  readonly #files: FilePieces | undefined;

  constructor({ backend, device, model, plan, source }: DeviceSlotsOptions) {
    const slots = present(plan.slots, 'slots');
    this.#device = device;
    this.#slots = slots;
    this.#memory = device.allocate(slots.count * slots.bytes);
    const mixtures = plan.layers.flatMap(({ experts }) => experts ?? []);
    const layouts = mixtures.flatMap(({ files }) => files?.experts ?? []);
    const pieces = layouts.map((layout) => source.requestsFor(layout));
    if (pieces.length > 0 && !slots.behind) this.#files = backend.filePieces(pieces, this.#memory);
    this.#ageCalls = AGE_PASSES * mixtures.length;
    const words = slotWords(slots, mixtures);
    const sizeBytes = totalWords(words) * DTYPE_BYTES.i32;
    const memory = device.allocate(sizeBytes);
    let used = 0;
    const take = (shape: readonly number[]) => {
      const taken = tensor(memory, used * DTYPE_BYTES.i32, 'i32', shape);
      used += elementCount(shape);
      return taken;
    };
    const state = take([words.mail]);
    const here = take([words.here]);
    this.#tables = {
      slotOf: take([words.slotOf]),
      keyOf: take([words.keyOf]),
      uses: take([words.uses]),
      stamps: take([words.stamps]),
      calls: take([words.calls]),
      list: take([words.list]),
    };
    this.#counts = take([mixtures.length, COUNTS]);
    this.#host = backend.allocateHost(sizeBytes, 'control');
    const host = this.#host;
    const content = new Int32Array(host.bytes.buffer, host.bytes.byteOffset, totalWords(words));
    content.fill(0);
    // Nobody lies anywhere.
    const firstSlot = words.mail + words.here;
    content.fill(-1, firstSlot, firstSlot + words.slotOf + words.keyOf);
    this.#layers = new Map(
      mixtures.map((experts, index) => {
        const first = used;
        const places = take([1 + experts.count, 2 * experts.parts.length]);
        content.set(placesOf(experts, experts.files?.partOffsets), first);
        return [experts.firstKey, { places, counts: rowOf(this.#counts, index) }] as const;
      }),
    );
    device.compute.copy(memory, 0, host, 0, sizeBytes);
    const share = slots.host;
    this.#parts = share && new HostParts({ backend, device, model, slots, share, state, here });
    const { behind } = slots;
    const ageCalls = this.#ageCalls;
    this.#behind =
      behind && new DramSlots({ backend, device, slots, behind, mixtures, pieces, state, ageCalls });
  }

  /** Between these the host may be asked to compute, or for experts. */
  beginPass(): void {
    this.#worker?.begin();
  }

  endPass(): void {
    this.#worker?.end();
  }

  get #worker(): HostWorker | undefined {
    return this.#parts?.worker ?? this.#behind?.worker;
  }

  /** As they are now; undefined where the host computes nothing. */
  get shareRates(): ShareRates | undefined {
    return this.#parts?.worker.rates;
  }

  /** Why the host could not do its part; empty while it could. */
  get hostFailure(): string {
    return this.#worker?.failure ?? '';
  }

  /** The experts of a layer that rest in `home`. */
  of(layer: PlannedLayer, home: ExpertHome): InSlots {
    const { experts, layout } = layer;
    const planned = present(experts, 'experts of the layer');
    const { places, counts } = present(this.#layers.get(planned.firstKey), 'tables of the layer');
    const { memory, count, bytes } = this.#slotTensor();
    const table = rows(this.#tables.slotOf, planned.firstKey, planned.count);
    const bring: ExpertsInSlots['bring'] = {
      slots: memory,
      home: home === 'files' ? null : tensor(home, 0, 'u8', [home.sizeBytes]),
      files: this.#files,
      behind: this.#behind?.operand,
      places,
      tables: this.#tables,
      counts,
      firstKey: planned.firstKey,
      ageCalls: this.#ageCalls,
    };
    const aside = home === 'files' ? undefined : this.#parts?.of(layer, home);
    const known = new WeakMap<readonly string[], ExpertsInSlots>();
    return (keys) => {
      const before = known.get(keys);
      if (before) return before;
      const spec = firstOf(layout.layer.matrices, keys, planned.count);
      const at = (slot: number) => this.#weightIn(slot, spec, planned);
      const files = this.#files && slotsOfFiles(this.#files, places, spec, planned);
      const slots = { table, memory, count, bytes, files };
      const made: ExpertsInSlots = { ends: [at(0), at(count - 1)], slots, bring, aside };
      known.set(keys, made);
      return made;
    };
  }

  /** In all layers, since the device began. Waits for the device. */
  async counts(): Promise<SlotCounts> {
    const { memory, offsetBytes, shape } = this.#counts;
    const words = elementCount(shape);
    const host = this.#host;
    this.#device.compute.copy(host, 0, memory, offsetBytes, words * DTYPE_BYTES.i32);
    await this.#device.compute.record().reached();
    const found = new Uint32Array(host.bytes.buffer, host.bytes.byteOffset, words);
    const sum = (which: number) =>
      found.reduce((all, one, at) => (at % COUNTS === which ? all + one : all), 0);
    const [hits, brought, computedByHost] = [sum(0), sum(1), sum(2)];
    const read = (this.#behind?.files ?? this.#files)?.stats() ?? { bytes: 0, busyMs: 0 };
    const inDram = this.#behind?.found ?? 0;
    return { hits, misses: brought + computedByHost, computedByHost, inDram, read };
  }

  #slotTensor() {
    const { count, bytes } = this.#slots;
    return { memory: tensor(this.#memory, 0, 'u8', [count, bytes]), count, bytes };
  }

  #weightIn(slot: number, spec: MatrixSpec, { parts, files }: PlannedExperts) {
    const matrix = expertOf(spec.key)?.matrix;
    return weightOf(spec, (part) => {
      const place = parts.find(({ matrix: of, name }) => of === matrix && spec.parts[name] === part);
      const begin = files && !this.#behind ? 0 : present(place, part.key).offsetBytes;
      return tensor(this.#memory, slot * this.#slots.bytes + begin, part.dtype, part.shape);
    });
  }
}

function slotsOfFiles(
  pieces: FilePieces,
  places: Tensor,
  { key }: MatrixSpec,
  { parts, firstKey }: PlannedExperts,
): SlotsOfFiles {
  const firstPart = parts.findIndex(({ matrix }) => matrix === expertOf(key)?.matrix);
  return { places, firstPart, firstPiece: firstKey, pieces };
}

/** The matrix of the first expert; tables know the others by their place among all. */
function firstOf(matrices: readonly MatrixSpec[], keys: readonly string[], count: number): MatrixSpec {
  const [first = ''] = keys;
  const inOrder = keys.every((key, place) => expertOf(key)?.expert === place);
  assert(inOrder && keys.length === count, `${first} and those that follow are all experts in their order`);
  return present(
    matrices.find(({ key }) => key === first),
    first,
  );
}

/** [n, 2] → [2] */
function rowOf(x: Tensor, index: number): Tensor {
  const row = rows(x, index, 1);
  return { ...row, shape: row.shape.slice(1), strides: row.strides.slice(1) };
}
