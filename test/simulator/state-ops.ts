// What simulated kernels of layers with a state compute: values that depend on all that came before in the sequence, wherever it
// was cut.

import { present } from '../../offload/errors.js';
import type { Op, StateTables, Tensor } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { innerRows, integers } from './footprint.js';
import { elementHashes, hashOf, mix, rowHashes } from './hashes.js';
import { contentHash, HazardError, type SimulatedMemory, simulated } from './memory.js';

type OpOf<Name extends Op['op']> = Extract<Op, { op: Name }>;

export interface StateSequence {
  readonly first: number;
  readonly count: number;
  readonly slot: number;
  /** Nothing of its slot is read. */
  readonly begins: boolean;
}

export function stateSequences({ sequences, slots }: StateTables, state: Tensor): StateSequence[] {
  const [table, slotOf] = [integers(sequences), integers(slots)];
  const seen = new Set<number>();
  return Array.from(slotOf, (slot, index) => {
    const [first = 0, count = 0, context = 0] = table.subarray(index * 4, index * 4 + 3);
    if (
      slot < 0 ||
      slot >= dimension(state, 0) ||
      seen.has(slot) ||
      first < 0 ||
      count <= 0 ||
      context < count
    ) {
      throw new HazardError(`state table holds ${first}, ${count}, ${context} in slot ${slot}`);
    }
    seen.add(slot);
    return { first, count, slot, begins: context === count };
  });
}

/** All that a slot holds. */
export function slotOf(state: Tensor, slot: number): Tensor {
  const bytes = slot * present(state.strides[0], 'stride of slots') * 4;
  return { ...state, offsetBytes: state.offsetBytes + bytes, shape: [1, ...state.shape.slice(1)] };
}

/** Inputs are kept as they are. @param put fills a row of `out` from a hash */
export function causalConv(
  op: OpOf<'causal_conv'>,
  put: (out: Tensor, hash: (row: number) => number) => void,
): void {
  const { out, x, weight, bias, state, tables, activation } = op;
  const [groups, width] = [dimension(x, 1), dimension(weight, 1)];
  const parameters = hashOf([weight, bias], [activation.length, 21]);
  const rows = innerRows(x);
  const [from, to] = [simulated(x.memory), simulated(state.memory)];
  const results: number[] = [];
  for (const { first, count, slot, begins } of stateSequences(tables, state)) {
    const kept = innerRows(slotOf(state, slot));
    for (let group = 0; group < groups; group++) {
      const column = group * rows.lengthBytes;
      const inputs: Uint8Array[] = [];
      for (const start of kept.offsets) {
        const end = start + column + rows.lengthBytes;
        inputs.push(begins ? new Uint8Array(rows.lengthBytes) : to.bytes.slice(start + column, end));
      }
      for (let t = 0; t < count; t++) {
        const start = present(rows.offsets[(first + t) * groups + group], 'row');
        inputs.push(from.bytes.slice(start, start + rows.lengthBytes));
      }
      const hashes = inputs.map(hashOfBytes);
      for (let t = 0; t < count; t++) {
        results[(first + t) * groups + group] = hashes
          .slice(t, t + width)
          .reduce(mix, mix(parameters, group));
      }
      kept.offsets.forEach((start, row) => {
        to.bytes.set(present(inputs[count + row], 'input'), start + column);
      });
    }
  }
  put(out, (row) => results[row] ?? 0);
}

function hashOfBytes(bytes: Uint8Array): number {
  return bytes.reduce(mix, 23);
}

/** Every head's state is one chain of hashes, spread over all of its words. */
export function stateScan(
  op: OpOf<'state_scan'>,
  put: (out: Tensor, hash: (row: number) => number) => void,
): void {
  const { out, q, k, v, step, beta, stepBias, decay, skip, state, tables } = op;
  const [groups, heads] = [dimension(k, 1), dimension(v, 1)];
  const parameters = hashOf([], [op.minStep, op.maxStep, op.normEps, op.queryScale]);
  const vectors = [stepBias, decay, ...(skip ? [skip] : [])].map(elementHashes);
  const byGroup = [q, k].map(rowHashes);
  const ofHeads = [step, ...(beta ? [beta] : [])].map((tensor) => words(tensor));
  const values = rowHashes(v);
  const results: number[] = [];
  for (const { first, count, slot, begins } of stateSequences(tables, state)) {
    for (let head = 0; head < heads; head++) {
      const group = Math.floor((head * groups) / heads);
      const own = vectors.reduce((hash, vector) => mix(hash, vector[head] ?? 0), parameters);
      let hash = begins ? mix(own, 29) : readChain(state, slot, head);
      for (let t = first; t < first + count; t++) {
        for (const hashes of byGroup) hash = mix(hash, hashes[t * groups + group] ?? 0);
        for (const tensor of ofHeads) hash = mix(hash, tensor[t * heads + head] ?? 0);
        hash = mix(mix(hash, values[t * heads + head] ?? 0), own);
        results[t * heads + head] = hash;
      }
      writeChain(state, slot, head, hash);
    }
  }
  put(out, (row) => results[row] ?? 0);
}

/** The words of a tensor in the order of its elements. */
function words(tensor: Tensor): number[] {
  const memory = simulated(tensor.memory);
  const { offsets, lengthBytes } = innerRows(tensor);
  return offsets.flatMap((start) => [...memory.words.subarray(start / 4, (start + lengthBytes) / 4)]);
}

interface HeadRows {
  readonly memory: SimulatedMemory;
  readonly offsets: readonly number[];
  readonly lengthBytes: number;
}

function headRows(state: Tensor, slot: number, head: number): HeadRows {
  const whole = slotOf(state, slot);
  const offsetBytes = whole.offsetBytes + head * present(state.strides[1], 'stride of heads') * 4;
  const rows = innerRows({ ...whole, offsetBytes, shape: [1, 1, ...state.shape.slice(2)] });
  return { memory: simulated(state.memory), ...rows };
}

function writeChain(state: Tensor, slot: number, head: number, hash: number): void {
  const { memory, offsets, lengthBytes } = headRows(state, slot, head);
  let index = 0;
  for (const start of offsets) {
    for (let at = start / 4; at < (start + lengthBytes) / 4; at++)
      memory.words[at] = index++ ? mix(hash, index) : hash;
  }
}

/** What was written, or noise where any word of it is another. */
function readChain(state: Tensor, slot: number, head: number): number {
  const { memory, offsets, lengthBytes } = headRows(state, slot, head);
  const hash = memory.words[present(offsets[0], 'row') / 4] ?? 0;
  let index = 0;
  for (const start of offsets) {
    for (let at = start / 4; at < (start + lengthBytes) / 4; at++) {
      const expected = index++ ? mix(hash, index) : hash;
      if (memory.words[at] !== expected) {
        return offsets.reduce(
          (all, row) => contentHash({ memory, start: row, end: row + lengthBytes }, all),
          31,
        );
      }
    }
  }
  return hash;
}
