// Experts on the drive with slots in DRAM: what a device asks for, how the host finds or reads it, and bytes that change places.

import { present } from '../../offload/errors.js';
import { ASKED_EACH_WORDS, FOUND_HEAD_WORDS } from '../../offload/port/host-ops.js';
import type { HostSlots, Op, Tensor } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { integers } from './footprint.js';
import { type ByteRun, HazardError, simulated } from './memory.js';

type FindOp = Extract<Op, { op: 'find_experts' }>;
type BringOp = Extract<Op, { op: 'bring_experts' }>;

const ONE_USE = 1024;
const AGE_PASSES = 32;

/** Who comes to a device, and who leaves it for that; its key is negative where nobody does. */
export interface Asked {
  readonly comes: number;
  readonly comesUses: number;
  readonly leaves: number;
  readonly leavesUses: number;
  readonly leavesStamp: number;
}

export function writeAsked(
  { asked }: HostSlots,
  calls: number,
  firstKey: number,
  all: readonly Asked[],
): void {
  const rows = all.map((one) => [one.comes, one.comesUses, one.leaves, one.leavesUses, one.leavesStamp]);
  integers(asked).set([all.length, calls, firstKey, ...rows.flat()]);
}

interface Place {
  readonly asked: Asked;
  /** Among those that are asked for. */
  readonly which: number;
  readonly slot: number;
}

/** The host's part: `begin`, then reads of what `missing` says, then `tell`. */
export class FindCall {
  readonly #op: FindOp;
  readonly #calls: number;
  readonly #firstKey: number;
  readonly #slotOf: Int32Array;
  readonly #keyOf: Int32Array;
  readonly #uses: Int32Array;
  readonly #stamps: Int32Array;
  readonly #there: Place[] = [];
  readonly missing: Place[] = [];

  constructor(op: FindOp) {
    this.#op = op;
    const { slotOf, keyOf, uses, stamps } = op.tables;
    [this.#slotOf, this.#keyOf] = [integers(slotOf), integers(keyOf)];
    [this.#uses, this.#stamps] = [integers(uses), integers(stamps)];
    const [count = 0, calls = 0, firstKey = 0, ...rows] = integers(op.asked);
    [this.#calls, this.#firstKey] = [calls, firstKey];
    const all = Array.from({ length: count }, (_, i): Asked => {
      const [comes = 0, comesUses = 0, leaves = -1, leavesUses = 0, leavesStamp = 0] = rows.slice(
        ASKED_EACH_WORDS * i,
      );
      if (leaves >= 0 && (this.#slotOf[leaves] ?? -1) >= 0)
        throw new HazardError(`expert ${leaves} leaves a device and lies in a slot of the host as well`);
      return { comes, comesUses, leaves, leavesUses, leavesStamp };
    });
    this.#age();
    const taken = new Set<number>();
    const wanting: { readonly asked: Asked; readonly which: number }[] = [];
    all.forEach((asked, which) => {
      const slot = this.#slotOf[asked.comes] ?? -1;
      if (slot < 0) {
        wanting.push({ asked, which });
        return;
      }
      taken.add(slot);
      this.#there.push({ asked, which, slot });
    });
    for (const { asked, which } of wanting) {
      const slot = this.#leaving(taken);
      taken.add(slot);
      const old = this.#keyOf[slot] ?? -1;
      if (old >= 0) this.#slotOf[old] = -1;
      this.#keyOf[slot] = asked.comes;
      this.#slotOf[asked.comes] = slot;
      integers(op.tables.readAs)[slot] = asked.comes;
      this.missing.push({ asked, which, slot });
    }
    const [found = 0, read = 0] = integers(op.counts);
    integers(op.counts).set([found + this.#there.length, read + this.missing.length]);
  }

  #age(): void {
    const calls = integers(this.#op.tables.calls);
    const [before = 0] = calls;
    const { ageCalls } = this.#op;
    const halvings = Math.floor(this.#calls / ageCalls) - Math.floor(before / ageCalls);
    this.#uses.set(this.#uses.map((uses) => uses >> Math.min(31, halvings)));
    calls[0] = this.#calls;
  }

  #leaving(taken: ReadonlySet<number>): number {
    let [best, leastUses, leastAge] = [-1, Number.POSITIVE_INFINITY, 0];
    this.#keyOf.forEach((key, slot) => {
      if (taken.has(slot)) return;
      const age = this.#calls - (this.#stamps[slot] ?? 0);
      const inThisPass = key < this.#firstKey && age < Math.floor(this.#op.ageCalls / AGE_PASSES);
      const uses = key < 0 ? -1 : Math.max(0, (this.#uses[slot] ?? 0) - (inThisPass ? ONE_USE : 0));
      if (uses < leastUses || (uses === leastUses && key >= 0 && age < leastAge))
        [best, leastUses, leastAge] = [slot, uses, age];
    });
    if (best < 0) throw new HazardError('the host has fewer slots than a device asks for at once');
    return best;
  }

  /** When all is there: where it lies, and who lies there from now on. */
  tell(): void {
    const { found, slots, begins, alike, tables } = this.#op;
    const forms = integers(alike);
    [...this.#there, ...this.missing].forEach(({ asked, which, slot }, row) => {
      const swaps = asked.leaves >= 0 && forms[asked.comes] === forms[asked.leaves];
      const readAs = present(integers(tables.readAs)[slot], 'a slot');
      const parts = dimension(begins, 1);
      const places = integers(begins).subarray(readAs * parts, (readAs + 1) * parts);
      const words = [...places].flatMap((at) => [slot * dimension(slots, 1) + at, 0]);
      integers(found).set([this.#calls, which, Number(swaps), ...words], row * dimension(found, 1));
      this.leave(asked.comes);
      this.#keyOf[slot] = swaps ? asked.leaves : -1;
      if (!swaps) return;
      this.#slotOf[asked.leaves] = slot;
      this.#uses[slot] = asked.leavesUses;
      this.#stamps[slot] = asked.leavesStamp;
    });
  }

  /** Who has come to the device lies in no slot of the host. */
  leave(key: number): void {
    this.#slotOf[key] = -1;
  }
}

interface Exchanged {
  readonly there: ByteRun;
  readonly here: ByteRun;
  readonly swaps: boolean;
}

/** The device's part, once the host has said where experts are. */
export class ExchangeCall {
  readonly #parts: readonly Exchanged[];

  constructor(op: BringOp) {
    const { slots: behind, found } = present(op.behind, 'slots of the host');
    const [count = 0] = integers(op.tables.list);
    const words = integers(op.places);
    const parts = dimension(op.places, 1) / 2;
    const exchanged: Exchanged[] = [];
    for (let told = 0; told < count; told++) {
      const row = integers(found).subarray(told * dimension(found, 1), (told + 1) * dimension(found, 1));
      const [turn, which = 0, swaps] = row;
      if (turn !== integers(op.tables.calls)[0]) throw new HazardError('places are of another asking');
      const slot = present(integers(op.tables.list)[2 + 2 * which], 'a slot');
      for (let part = 0; part < parts; part++) {
        const [to = 0, bytes = 0] = words.subarray(2 * part);
        const from = present(row[FOUND_HEAD_WORDS + 2 * part], 'a place');
        const here = stretch(op.slots, slot * dimension(op.slots, 1) + to, bytes);
        exchanged.push({ there: stretch(behind, from, bytes), here, swaps: swaps !== 0 });
      }
    }
    this.#parts = exchanged;
  }

  get reads(): ByteRun[] {
    return this.#parts.flatMap(({ here, there, swaps }) => (swaps ? [here, there] : [there]));
  }

  get writes(): ByteRun[] {
    return this.#parts.flatMap(({ here, there, swaps }) => (swaps ? [here, there] : [here]));
  }

  write(): void {
    for (const { here, there, swaps } of this.#parts) {
      const leaves = here.memory.bytes.slice(here.start, here.end);
      here.memory.bytes.set(there.memory.bytes.subarray(there.start, there.end), here.start);
      if (swaps) there.memory.bytes.set(leaves, there.start);
    }
  }
}

function stretch({ memory, offsetBytes }: Tensor, at: number, bytes: number): ByteRun {
  const [known, start] = [simulated(memory), offsetBytes + at];
  if (at < 0 || start + bytes > memory.sizeBytes)
    throw new HazardError(`${known.name}: an expert's bytes ${start} to ${start + bytes} do not lie in it`);
  return { memory: known, start, end: start + bytes };
}
