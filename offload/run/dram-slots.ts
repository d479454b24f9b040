// Slots of DRAM between a device's slots and the drive: their memory, who lies in them, and the worker that looks up and reads experts.

import type { DramSlotPlan, PlannedExperts, SlotPlan } from '../plan/plan.js';
import { dramSlotWords, totalWords } from '../plan/slots.js';
import type { Backend, Device, HostWorker, ReadRequest } from '../port/backend.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { FilePieces } from '../port/file-pieces.js';
import { FOUND_HEAD_WORDS, type HostSlots, MAIL_WORDS } from '../port/host-ops.js';
import type { Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';

export interface DramSlotsOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly slots: SlotPlan;
  readonly behind: DramSlotPlan;
  /** All of the model, in the order of their keys. */
  readonly mixtures: readonly PlannedExperts[];
  /** By key, what is read of the files. */
  readonly pieces: readonly (readonly ReadRequest[])[];
  /** i32 of the device: what it keeps beside its mailbox. */
  readonly state: Tensor;
  readonly ageCalls: number;
}

export class DramSlots {
  readonly worker: HostWorker;
  readonly files: FilePieces;
  /** What `bring_experts` takes. */
  readonly operand: HostSlots;
  readonly #counts: Int32Array;

  constructor({ backend, device, slots, behind, mixtures, pieces, state, ageCalls }: DramSlotsOptions) {
    this.worker = backend.openWorker(device);
    const memory = backend.allocateHost(behind.count * behind.bytes, 'cache');
    this.files = backend.filePieces(pieces, memory);
    const words = dramSlotWords(slots, behind, mixtures);
    const { experts, parts } = largest(mixtures);
    const told = backend.allocateHost((words.asked + words.found) * DTYPE_BYTES.i32, 'shared');
    const found = tensor(told, 0, 'i32', [experts, FOUND_HEAD_WORDS + 2 * parts]);
    const asked = tensor(told, words.found * DTYPE_BYTES.i32, 'i32', [words.asked]);
    const count = totalWords(words) - words.asked - words.found;
    const known = backend.allocateHost(count * DTYPE_BYTES.i32, 'control');
    const content = new Int32Array(known.bytes.buffer, known.bytes.byteOffset, count);
    let used = 0;
    const take = (shape: readonly number[], value: number | readonly number[] = 0): Tensor => {
      const first = used;
      used += elementCount(shape);
      if (typeof value === 'number') content.fill(value, first, used);
      else content.set(value, first);
      return tensor(known, first * DTYPE_BYTES.i32, 'i32', shape);
    };
    const tables = {
      slotOf: take([words.slotOf], -1),
      keyOf: take([words.keyOf], -1),
      uses: take([words.uses]),
      stamps: take([words.stamps]),
      readAs: take([words.readAs]),
      calls: take([words.calls]),
    };
    const begins = take(
      [slots.keys, parts],
      mixtures.flatMap((mixture) => beginsOf(mixture, parts)),
    );
    const alike = take([words.alike], formsOf(mixtures));
    this.#counts = content.subarray(used, used + words.counts);
    const counts = take([words.counts]);
    const all = tensor(memory, 0, 'u8', [behind.count, behind.bytes]);
    const { files } = this;
    const job = this.worker.define([
      { op: 'find_experts', asked, found, slots: all, begins, alike, tables, counts, ageCalls, files },
    ]);
    const mail = { words: tensor(this.worker.mail, 0, 'i32', [MAIL_WORDS]), state };
    this.operand = { slots: all, asked, found, mail, job };
  }

  /** Experts that lay in a slot when they were asked for. */
  get found(): number {
    return this.#counts[0] ?? 0;
  }
}

function largest(mixtures: readonly PlannedExperts[]): { experts: number; parts: number } {
  const most = (of: (mixture: PlannedExperts) => number) =>
    mixtures.reduce((all, mixture) => Math.max(all, of(mixture)), 0);
  return { experts: most(({ count }) => count), parts: most((mixture) => mixture.parts.length) };
}

/** By expert, then by part: where it begins in a slot that the expert was read into. */
function beginsOf({ files, parts }: PlannedExperts, most: number): number[] {
  const padding = new Array<number>(most - parts.length).fill(0);
  return (files?.partOffsets ?? []).flatMap((offsets) => [...offsets, ...padding]);
}

/** By key: the first layer whose experts have parts of the same sizes. */
function formsOf(mixtures: readonly PlannedExperts[]): number[] {
  const sizes = mixtures.map(({ parts }) => parts.map(({ sizeBytes }) => sizeBytes).join());
  return mixtures.flatMap(({ count }, layer) =>
    new Array<number>(count).fill(sizes.indexOf(sizes[layer] ?? '')),
  );
}
