// A device's slots for experts, the tables that say who lies where, and what the forward takes of them.

import { assert, present } from '../errors.js';
import { expertOf, placesOf } from '../model/experts.js';
import type { ExpertsInSlots, ExpertWeights } from '../model/forward-options.js';
import type { MatrixSpec } from '../model/layout.js';
import { weightOf } from '../model/weights.js';
import type { Plan, PlannedExperts, PlannedLayer, SlotPlan } from '../plan/plan.js';
import { slotWords, totalWords } from '../plan/slots.js';
import type { Backend, Device, HostMemory } from '../port/backend.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { Memory, SlotTables, Tensor } from '../port/ops.js';
import { rows, tensor } from '../port/tensor.js';

/** Uses are halved after so many passes: halving sooner forgets what is common, later keeps what was. */
const AGE_PASSES = 16;

/** Weights of experts by the keys of one of their matrices. */
export type InSlots = (keys: readonly string[]) => ExpertWeights;

export interface DeviceSlotsOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly plan: Plan;
}

/** How often a chosen expert lay in a slot already, and how often it did not. */
export interface SlotCounts {
  readonly hits: number;
  readonly misses: number;
}

export class DeviceSlots {
  readonly #device: Device;
  readonly #slots: SlotPlan;
  readonly #memory: Memory;
  /** Tables as they begin, and then what is read of them. */
  readonly #host: HostMemory;
  readonly #tables: SlotTables;
  /** i32 [layers with experts, 2] */
  readonly #counts: Tensor;
  /** By the first key of a layer. */
  readonly #layers: ReadonlyMap<number, { readonly places: Tensor; readonly counts: Tensor }>;
  readonly #ageCalls: number;

  constructor({ backend, device, plan }: DeviceSlotsOptions) {
    const slots = present(plan.slots, 'slots');
    this.#device = device;
    this.#slots = slots;
    this.#memory = device.allocate(slots.count * slots.bytes);
    const mixtures = plan.layers.flatMap(({ experts }) => experts ?? []);
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
    this.#tables = {
      slotOf: take([words.slotOf]),
      keyOf: take([words.keyOf]),
      uses: take([words.uses]),
      stamps: take([words.stamps]),
      calls: take([words.calls]),
      list: take([words.list]),
    };
    this.#counts = take([mixtures.length, 2]);
    this.#host = backend.allocateHost(sizeBytes, 'control');
    const host = this.#host;
    const content = new Int32Array(host.bytes.buffer, host.bytes.byteOffset, totalWords(words));
    // Nobody lies anywhere.
    content.fill(-1, 0, words.slotOf + words.keyOf).fill(0, words.slotOf + words.keyOf);
    this.#layers = new Map(
      mixtures.map((experts, index) => {
        const first = used;
        const places = take([1 + experts.count, 2 * experts.parts.length]);
        content.set(placesOf(experts), first);
        return [experts.firstKey, { places, counts: rowOf(this.#counts, index) }] as const;
      }),
    );
    device.compute.copy(memory, 0, host, 0, sizeBytes);
  }

  /** The experts of a layer that rest in `home`. */
  of({ experts, layout }: PlannedLayer, home: HostMemory): InSlots {
    const planned = present(experts, 'experts of the layer');
    const { places, counts } = present(this.#layers.get(planned.firstKey), 'tables of the layer');
    const { memory, count, bytes } = this.#slotTensor();
    const table = rows(this.#tables.slotOf, planned.firstKey, planned.count);
    const bring: ExpertsInSlots['bring'] = {
      slots: memory,
      home: tensor(home, 0, 'u8', [home.sizeBytes]),
      places,
      tables: this.#tables,
      counts,
      firstKey: planned.firstKey,
      ageCalls: this.#ageCalls,
    };
    const slots = { table, memory, count, bytes };
    const known = new WeakMap<readonly string[], ExpertsInSlots>();
    return (keys) => {
      const before = known.get(keys);
      if (before) return before;
      const spec = firstOf(layout.layer.matrices, keys, planned.count);
      const at = (slot: number) => this.#weightIn(slot, spec, planned);
      const made: ExpertsInSlots = { ends: [at(0), at(count - 1)], slots, bring };
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
    const sum = (which: number) => found.reduce((all, one, at) => (at % 2 === which ? all + one : all), 0);
    return { hits: sum(0), misses: sum(1) };
  }

  #slotTensor() {
    const { count, bytes } = this.#slots;
    return { memory: tensor(this.#memory, 0, 'u8', [count, bytes]), count, bytes };
  }

  #weightIn(slot: number, spec: MatrixSpec, { parts }: PlannedExperts) {
    const matrix = expertOf(spec.key)?.matrix;
    return weightOf(spec, (part) => {
      const place = parts.find(({ matrix: of, name }) => of === matrix && spec.parts[name] === part);
      const offset = slot * this.#slots.bytes + present(place, part.key).offsetBytes;
      return tensor(this.#memory, offset, part.dtype, part.shape);
    });
  }
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
