// Exactly which bytes an operation reads and writes: look-ups and the cache touch only the rows that their tables name.

import { assert, present } from '../../offload/errors.js';
import { pagesFor } from '../../offload/model/kv-cache.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { PART_NAMES } from '../../offload/port/formats.js';
import { ELSEWHERE } from '../../offload/port/host-ops.js';
import type { SlotsOfFiles } from '../../offload/port/mixture-ops.js';
import {
  cacheTensors,
  type ExpertSlots,
  effects,
  type Op,
  partsOf,
  spanBytes,
  type Tensor,
  type Weight,
} from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { type ByteRun, HazardError, type SimulatedMemory, simulated } from './memory.js';
import { SlotCall } from './slots.js';
import { slotOf, stateSequences } from './state-ops.js';

export interface Footprint {
  readonly reads: readonly ByteRun[];
  readonly writes: readonly ByteRun[];
}

/** Stretches as they are found, neighbours as one. Most of what an operation touches is many short ones in a row. */
class Runs {
  readonly found: ByteRun[] = [];
  #last: { readonly memory: SimulatedMemory; readonly start: number; end: number } | undefined;

  add(memory: SimulatedMemory, start: number, end: number): void {
    if (start === end) return;
    if (this.#last && this.#last.memory === memory && this.#last.end === start) {
      this.#last.end = end;
    } else {
      this.#last = { memory, start, end };
      this.found.push(this.#last);
    }
  }

  addRun({ memory, start, end }: ByteRun): void {
    this.add(memory, start, end);
  }

  addRuns(runs: readonly ByteRun[]): void {
    for (const run of runs) this.addRun(run);
  }

  addTensor(tensor: Tensor): void {
    const memory = simulated(tensor.memory);
    const span = spanBytes(tensor);
    inside(memory, tensor.offsetBytes, span);
    if (span === elementCount(tensor.shape) * DTYPE_BYTES[tensor.dtype]) {
      this.add(memory, tensor.offsetBytes, tensor.offsetBytes + span);
      return;
    }
    const { offsets, lengthBytes } = innerRows(tensor);
    for (const start of offsets) this.add(memory, start, start + lengthBytes);
  }
}

/** Indices are taken from the tables' present content, so call it when the operation starts. */
export function footprint(op: Op): Footprint {
  const { reads, writes } = effects(op);
  const [read, written] = [new Runs(), new Runs()];
  const special = new Set<Tensor>();
  if (op.op === 'gather_rows') {
    special.add(op.table);
    for (const row of integers(op.rows)) read.addRun(tableRow(op.table, row));
  } else if (op.op === 'route' && op.table && op.rows) {
    special.add(op.table);
    for (const row of integers(op.rows)) read.addRun(tableRow(op.table, row));
  } else if (op.op === 'expert_linear') {
    for (const part of op.slots ? [op.slots.memory] : op.weights.flatMap(partsOf)) special.add(part);
    for (const expert of new Set(integers(op.experts))) {
      if (expert === ELSEWHERE) continue;
      for (const part of partsOf(chosen(op, expert))) read.addTensor(part);
    }
  } else if (op.op === 'bring_experts') {
    for (const tensor of [op.slots, op.home, op.behind?.slots, op.behind?.found])
      if (tensor) special.add(tensor);
    for (const { from, to } of new SlotCall(op).copies()) {
      if (from) read.addRun(from);
      written.addRun(to);
    }
  } else if (op.op === 'find_experts') {
    special.add(op.slots); // which the drive writes
  } else if (op.op === 'take_host' && op.choices) {
    for (const tensor of [op.from, op.out]) special.add(tensor);
    integers(op.choices).forEach((choice, row) => {
      if (choice !== ELSEWHERE) return;
      read.addRun(tableRow(op.from, row));
      written.addRun(tableRow(op.out, row));
    });
  } else if (op.op === 'kv_store') {
    for (const cache of cacheTensors(op)) {
      special.add(cache);
      for (const slot of integers(op.slots)) written.addRuns(slotRuns(cache, slot));
    }
  } else if (op.op === 'attention') {
    const caches = cacheTensors(op);
    for (const cache of caches) special.add(cache);
    const pageTokens = dimension(op.keys, 2);
    for (const { pages, context, firstRead } of cachedSequences(op)) {
      pages.forEach((page, index) => {
        const tokens = Math.min(pageTokens, context - index * pageTokens);
        if ((index + 1) * pageTokens <= firstRead) return;
        for (const cache of caches) read.addRuns(slotRuns(cache, page * pageTokens, tokens));
      });
    }
  }
  if (op.op === 'causal_conv' || op.op === 'state_scan') {
    special.add(op.state);
    for (const { slot, begins } of stateSequences(op.tables, op.state)) {
      const state = slotOf(op.state, slot);
      if (!begins) read.addTensor(state);
      written.addTensor(state);
    }
  }
  for (const tensor of reads) if (!special.has(tensor)) read.addTensor(tensor);
  for (const tensor of writes) if (!special.has(tensor)) written.addTensor(tensor);
  return { reads: read.found, writes: written.found };
}

/** What is read whatever the tables say: everything but table rows, experts and the cache. */
export function tensorsReadWhole(op: Op): readonly Tensor[] {
  const { reads } = effects(op);
  if (op.op === 'gather_rows' || op.op === 'route') return reads.filter((tensor) => tensor !== op.table);
  if (op.op === 'expert_linear') {
    const parts = new Set([...op.weights.flatMap(partsOf), op.slots?.memory]);
    return reads.filter((tensor) => !parts.has(tensor));
  }
  if (op.op === 'bring_experts') {
    const touched = new Set([op.slots, op.home, op.behind?.slots, op.behind?.found]);
    return reads.filter((tensor) => !touched.has(tensor));
  }
  if (op.op === 'take_host' && op.choices) return [op.choices];
  if (op.op === 'attention') {
    const cache = new Set(cacheTensors(op));
    return reads.filter((tensor) => !cache.has(tensor));
  }
  if (op.op === 'causal_conv' || op.op === 'state_scan') return reads.filter((tensor) => tensor !== op.state);
  return reads;
}

/** The contiguous stretches of a tensor. */
export function runsOf(tensor: Tensor): ByteRun[] {
  const runs = new Runs();
  runs.addTensor(tensor);
  return runs.found;
}

/** Where each innermost row begins, in bytes of the memory, and how long it is. */
export function innerRows({ offsetBytes, dtype, shape, strides }: Tensor): {
  offsets: number[];
  lengthBytes: number;
} {
  const elementBytes = DTYPE_BYTES[dtype];
  const inner = shape.at(-1) ?? 1;
  let offsets = [offsetBytes];
  for (let axis = 0; axis < shape.length - 1; axis++) {
    const strideBytes = (strides[axis] ?? 0) * elementBytes;
    const next: number[] = [];
    for (const offset of offsets) {
      for (let index = 0; index < (shape[axis] ?? 0); index++) next.push(offset + index * strideBytes);
    }
    offsets = next;
  }
  return { offsets, lengthBytes: inner * elementBytes };
}

export function integers(tensor: Tensor): Int32Array {
  assert(tensor.dtype === 'i32' && tensor.shape.length <= 2, 'an i32 table');
  const memory = simulated(tensor.memory);
  inside(memory, tensor.offsetBytes, spanBytes(tensor));
  const first = tensor.offsetBytes / 4;
  return memory.words.subarray(first, first + spanBytes(tensor) / 4);
}

export function tableRow(table: Tensor, row: number): ByteRun {
  const memory = simulated(table.memory);
  if (row < 0 || row >= dimension(table, 0)) {
    throw new HazardError(`${memory.name}: row ${row} of a table with ${dimension(table, 0)} rows is wanted`);
  }
  const elementBytes = DTYPE_BYTES[table.dtype];
  const start = table.offsetBytes + row * present(table.strides[0], 'row stride') * elementBytes;
  return { memory, start, end: start + dimension(table, 1) * elementBytes };
}

/** The weight of an expert that a table names, at its own place or in the slot where it lies. */
export function chosen({ weights, slots }: Op & { op: 'expert_linear' }, expert: number): Weight {
  if (slots) return inSlot(present(weights[0], 'the first slot'), slots, expert);
  const weight = weights[expert];
  if (!weight) throw new HazardError(`expert ${expert} of ${weights.length} is wanted`);
  return weight;
}

function inSlot(first: Weight, { table, count, bytes, files }: ExpertSlots, expert: number): Weight {
  const slot = integers(table)[expert] ?? -1;
  if (slot < 0 || slot >= count) throw new HazardError(`expert ${expert} is wanted, but lies in no slot`);
  const names = PART_NAMES.filter((name) => first.parts[name]);
  const moved = names.map((name, index) => {
    const part = present(first.parts[name], name);
    const begin = files ? placeOf(files, expert, index) : 0;
    return [name, { ...part, offsetBytes: part.offsetBytes + slot * bytes + begin }] as const;
  });
  return { ...first, parts: Object.fromEntries(moved) as Weight['parts'] };
}

/** Where one of the weight's parts begins in the slot of an expert of files. */
function placeOf({ places, firstPart }: SlotsOfFiles, expert: number, index: number): number {
  return integers(places)[(1 + expert) * dimension(places, 1) + 2 * (firstPart + index)] ?? 0;
}

/** What one tensor of a cache [pages, kvHeads, pageTokens, columns] holds of tokens in one page: one stretch per head. */
export function slotRuns(cache: Tensor, slot: number, tokens = 1): ByteRun[] {
  const memory = simulated(cache.memory);
  const [pages, kvHeads] = [dimension(cache, 0), dimension(cache, 1)];
  const sizeBytes = tokens * dimension(cache, 3) * DTYPE_BYTES[cache.dtype];
  if (slot < 0 || slot >= pages * dimension(cache, 2)) {
    throw new HazardError(`${memory.name}: slot ${slot} of a cache with ${pages} pages is wanted`);
  }
  const runs: ByteRun[] = [];
  for (let head = 0; head < kvHeads; head++) {
    const start = slotByte(cache, slot, head);
    runs.push({ memory, start, end: start + sizeBytes });
  }
  return runs;
}

/** Where a head of a slot begins in the memory. */
export function slotByte(cache: Tensor, slot: number, head: number): number {
  const [page = 0, perHead = 0, token = 0] = cache.strides;
  const pageTokens = dimension(cache, 2);
  const element = Math.floor(slot / pageTokens) * page + head * perHead + (slot % pageTokens) * token;
  return cache.offsetBytes + element * DTYPE_BYTES[cache.dtype];
}

export interface CachedSequence {
  /** First token in the micro-batch. */
  readonly first: number;
  readonly count: number;
  readonly context: number;
  readonly pages: Int32Array;
  /** The first position that any of its tokens sees. */
  readonly firstRead: number;
}

export function cachedSequences({ tables, keys, score }: Op & { op: 'attention' }): CachedSequence[] {
  const table = integers(tables.sequences);
  const pages = integers(tables.pages);
  const tokens = dimension(tables.positions, 0);
  return Array.from({ length: dimension(tables.sequences, 0) }, (_, index) => {
    const [first = 0, count = 0, context = 0, firstPage = 0] = table.subarray(index * 4, index * 4 + 4);
    const lastPage = firstPage + pagesFor(context, dimension(keys, 2));
    const sane = first >= 0 && count > 0 && first + count <= tokens && context >= count;
    if (!sane || context > tables.maxContextTokens || firstPage < 0 || lastPage > pages.length) {
      throw new HazardError(`sequence table holds ${first}, ${count}, ${context}, ${firstPage}`);
    }
    const start = context - count;
    const { windowTokens = 0, chunkTokens = 0 } = score;
    const inWindow = windowTokens > 0 ? Math.max(0, start - windowTokens + 1) : 0;
    const firstRead = chunkTokens > 0 ? Math.max(inWindow, start - (start % chunkTokens)) : inWindow;
    return { first, count, context, pages: pages.subarray(firstPage, lastPage), firstRead };
  });
}

function inside(memory: SimulatedMemory, offset: number, sizeBytes: number): void {
  assert(
    offset >= 0 && offset + sizeBytes <= memory.sizeBytes,
    `bytes ${offset} to ${offset + sizeBytes} lie in ${memory.name} of ${memory.sizeBytes} bytes`,
  );
}
