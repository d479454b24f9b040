// Experts in slots: who comes into which by the rule of native/ops/slots.h, and the bytes that this moves.

import { present } from '../../offload/errors.js';
import type { ReadRequest, ReadSpan } from '../../offload/port/backend.js';
import type { FilePieces } from '../../offload/port/file-pieces.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { type Asked, writeAsked } from './exchange.js';
import { integers } from './footprint.js';
import { leaveToHost } from './host-ops.js';
import { workerOf } from './mailboxes.js';
import { type ByteRun, HazardError, simulated } from './memory.js';

type BringOp = Extract<Op, { op: 'bring_experts' }>;

const ONE_USE = 1024;
const MOST_USES = 2 ** 30;
const AGE_PASSES = 32;

/** Pieces of a simulated drive's files. Those of operations in place are there at once: how long they take is the operation's time. */
export class SimulatedPieces implements FilePieces {
  readonly id = 1;
  readonly #pieces: readonly (readonly ReadRequest[])[];
  readonly #contentOf: (request: ReadRequest) => Uint8Array;
  readonly #read: (requests: readonly ReadRequest[]) => Promise<ReadSpan>;
  #bytes = 0;

  constructor(
    pieces: readonly (readonly ReadRequest[])[],
    contentOf: (request: ReadRequest) => Uint8Array,
    read: (requests: readonly ReadRequest[]) => Promise<ReadSpan>,
  ) {
    this.#pieces = pieces;
    this.#contentOf = contentOf;
    this.#read = read;
  }

  /** By the drive, at a time of its own, to so many bytes from the memory's begin. */
  async read(piece: number, at: number): Promise<void> {
    const requests = present(this.#pieces[piece], `piece ${piece}`);
    const span = await this.#read(
      requests.map((request) => ({ ...request, memoryOffset: request.memoryOffset + at })),
    );
    this.#bytes += span.bytes;
  }

  /** Each read's bytes, and where in the piece's place they begin. */
  bytesOf(piece: number): { readonly at: number; readonly bytes: Uint8Array }[] {
    const requests = present(this.#pieces[piece], `piece ${piece}`);
    return requests.map((request) => ({ at: request.memoryOffset, bytes: this.#contentOf(request) }));
  }

  stats() {
    return { bytes: this.#bytes, busyMs: 0 };
  }
}

/** What is written where; `from` is undefined where it comes from files. */
interface SlotCopy {
  readonly from: ByteRun | undefined;
  readonly bytes: Uint8Array;
  readonly to: ByteRun;
}

/** An expert that comes, and into which slot. */
interface Arrival {
  readonly expert: number;
  readonly slot: number;
  readonly asked: Asked;
}

/** The tables of an operation, as they are and as it makes them: nothing is written before `write`. */
export class SlotCall {
  readonly #op: BringOp;
  readonly #slotOf: Int32Array;
  readonly #uses: Int32Array;
  readonly #keyOf: Int32Array;
  readonly #stamps: Int32Array;
  readonly #call: number;
  readonly #wanted: readonly number[];
  readonly arrivals: readonly Arrival[];
  /** Experts that the host computes: of those that lie in no slot, those that were wanted least. */
  readonly #left: ReadonlySet<number>;

  constructor(op: BringOp) {
    const { tables, firstKey, ageCalls } = op;
    this.#op = op;
    this.#slotOf = integers(tables.slotOf).slice();
    this.#uses = integers(tables.uses).slice();
    this.#keyOf = integers(tables.keyOf).slice();
    this.#stamps = integers(tables.stamps).slice();
    this.#call = present(integers(tables.calls)[0], 'calls') + 1;
    this.#wanted = wantedBy(op);
    if (this.#call % ageCalls === 0) this.#uses.set(this.#uses.map((uses) => Math.trunc(uses / 2)));
    for (const expert of this.#wanted) {
      const [key, slot] = [firstKey + expert, this.#slotOf[firstKey + expert] ?? -1];
      const uses = this.#uses[key] ?? 0;
      if (uses < MOST_USES) this.#uses[key] = uses + ONE_USE;
      if (slot >= 0) this.#stamps[slot] = this.#call;
    }
    const missing = this.#wanted.filter((expert) => (this.#slotOf[firstKey + expert] ?? -1) < 0);
    const { aside } = op;
    const share = aside ? workerOf(aside.mail.words.memory).shareOf(missing.length, this.#call) : 0;
    const usesOf = (expert: number) => this.#uses[firstKey + expert] ?? 0;
    this.#left = new Set([...missing].sort((a, b) => usesOf(a) - usesOf(b) || a - b).slice(0, share));
    const coming = missing.filter((expert) => !this.#left.has(expert));
    this.arrivals = coming.map((expert) => {
      const slot = this.leaving();
      const leaves = this.#keyOf[slot] ?? -1;
      const asked = {
        comes: firstKey + expert,
        comesUses: usesOf(expert),
        leaves,
        leavesUses: this.#uses[leaves] ?? 0,
        leavesStamp: this.#stamps[slot] ?? 0,
      };
      this.forget(leaves);
      this.#keyOf[slot] = firstKey + expert;
      this.#slotOf[firstKey + expert] = slot;
      this.#stamps[slot] = this.#call;
      return { expert, slot, asked };
    });
  }

  /** A free slot, or the one whose expert was wanted least before this pass, and of these last; never one that this call wants. */
  leaving(): number {
    let [best, leastUses, leastAge] = [-1, Number.POSITIVE_INFINITY, 0];
    this.#keyOf.forEach((key, slot) => {
      if (key >= 0 && this.isWanted(slot)) return;
      const [uses, age] = key < 0 ? [-1, 0] : [this.#usesBefore(key, slot), this.#ageOf(slot)];
      if (uses < leastUses || (uses === leastUses && age < leastAge))
        [best, leastUses, leastAge] = [slot, uses, age];
    });
    if (best < 0) throw new HazardError(`no slot of ${this.#keyOf.length} is left for what a call wants`);
    return best;
  }

  #ageOf(slot: number): number {
    return this.#call - (this.#stamps[slot] ?? 0);
  }

  /** Experts of layers that come earlier in a pass have been used once more in this one. */
  #usesBefore(key: number, slot: number): number {
    const { firstKey, ageCalls } = this.#op;
    const inThisPass = key < firstKey && this.#ageOf(slot) < Math.floor(ageCalls / AGE_PASSES);
    return Math.max(0, (this.#uses[key] ?? 0) - (inThisPass ? ONE_USE : 0));
  }

  isWanted(slot: number): boolean {
    return this.#stamps[slot] === this.#call;
  }

  /** Who lay in a slot lies in none. */
  forget(key: number): void {
    if (key >= 0) this.#slotOf[key] = -1;
  }

  /** Each part of each expert that comes: its bytes where it rests, and its place in its slot. */
  copies(): SlotCopy[] {
    const { slots, home, files, places, firstKey, behind } = this.#op;
    if (behind) return []; // these follow when the host has said where they are
    if (files instanceof SimulatedPieces) {
      return this.arrivals.flatMap(({ expert, slot }) =>
        files.bytesOf(firstKey + expert).map(({ at, bytes }) => ({
          from: undefined,
          bytes,
          to: stretch(slots, this.startOf(slot) + at, bytes.length),
        })),
      );
    }
    const parts = dimension(places, 1) / 2;
    const words = integers(places);
    return this.arrivals.flatMap(({ expert, slot }) =>
      Array.from({ length: parts }, (_, part) => {
        const [to = 0, bytes = 0] = words.subarray(2 * part, 2 * part + 2);
        const [low = 0, high = 0] = words.subarray(2 * parts * (1 + expert) + 2 * part);
        const from = stretch(present(home, 'home'), high * 2 ** 32 + (low >>> 0), bytes);
        return {
          from,
          bytes: from.memory.bytes.subarray(from.start, from.end),
          to: stretch(slots, this.startOf(slot) + to, bytes),
        };
      }),
    );
  }

  startOf(slot: number): number {
    return slot * dimension(this.#op.slots, 1);
  }

  write(): void {
    const { tables, counts } = this.#op;
    // Bytes first: they are what the tables say.
    for (const { bytes, to } of this.copies()) to.memory.bytes.set(bytes, to.start);
    integers(tables.slotOf).set(this.#slotOf);
    integers(tables.uses).set(this.#uses);
    integers(tables.keyOf).set(this.#keyOf);
    integers(tables.stamps).set(this.#stamps);
    integers(tables.calls)[0] = this.#call;
    integers(tables.list).set([
      this.arrivals.length,
      ...this.arrivals.flatMap(({ expert, slot }) => [expert, slot]),
    ]);
    const [came, left] = [this.arrivals.length, this.#left.size];
    const [hits = 0, brought = 0, computed = 0] = integers(counts);
    integers(counts).set([hits + this.#wanted.length - came - left, brought + came, computed + left]);
    if (this.#op.aside) leaveToHost(this.#op.aside, this.#op.experts, this.#left);
    const { behind, firstKey } = this.#op;
    if (!behind || came === 0) return;
    writeAsked(
      behind,
      this.#call,
      firstKey,
      this.arrivals.map(({ asked }) => asked),
    );
    workerOf(behind.mail.words.memory).ask(behind.job);
  }
}

/** Experts that some token chose, in their order; there must be slots for as many as the tokens could choose. */
function wantedBy({ experts, places, slots }: BringOp): number[] {
  const [count, chosen] = [dimension(places, 0) - 1, integers(experts)];
  const [most, room] = [Math.min(count, chosen.length), dimension(slots, 0)];
  if (room < most) throw new HazardError(`${most} experts may be chosen, but there are ${room} slots`);
  const wanted = [...new Set(chosen)].sort((a, b) => a - b);
  const strange = wanted.find((expert) => expert < 0 || expert >= count);
  if (strange !== undefined) throw new HazardError(`expert ${strange} of ${count} is wanted`);
  return wanted;
}

function stretch({ memory, offsetBytes }: Tensor, at: number, bytes: number): ByteRun {
  const [known, start] = [simulated(memory), offsetBytes + at];
  if (at < 0 || start + bytes > memory.sizeBytes) {
    throw new HazardError(`${known.name}: an expert's bytes ${start} to ${start + bytes} do not lie in it`);
  }
  return { memory: known, start, end: start + bytes };
}
