// Cases of experts in slots for any device: who comes into which slot, whose bytes lie there, and products with them.

import { expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import type { Op, SlotTables, Tensor, Weight } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { choices } from './expert-cases.js';
import { AGE_PASSES } from './reference-slots.js';
import { check, type KernelDevice, WEIGHT_TYPES, type Workbench } from './workbench.js';

/** [layers, experts, slots, tokens, experts of each token] */
const POOLS = [
  [1, 1, 1, 1, 1],
  [3, 5, 4, 2, 2],
  [4, 40, 37, 3, 4],
  [2, 128, 150, 1, 8],
  [2, 9, 9, 300, 2],
  // More slots than threads of a GPU hold at once.
  [20, 256, 4200, 3, 4],
] as const;
/** Bytes of an expert's parts. The long one is more than a block of a GPU copies at once, and begins within a line of memory. */
const SHORT_PARTS = [2003, 96, 1, 33, 64];
const LONG_PARTS = [1, 70_003, 64];
const FEW_PARTS = [96, 33];
/** Between parts, so that they lie at multiples of 1, 4, 8 and 16. */
const GAPS = [0, 1, 4, 8, 16];
const CALLS = 14;

interface Part {
  readonly bytes: number;
  readonly offset: number;
}

/** Empty slots of experts whose parts have so many bytes, and the tables of their layers. */
function slotsFor(bench: Workbench, [layers, experts, slots]: readonly number[], sizes: readonly number[]) {
  const [all = 0, each = 0, count = 0] = [layers, experts, slots];
  const parts: Part[] = [];
  let bytes = 0;
  for (const size of sizes) {
    parts.push({ bytes: size, offset: bytes });
    bytes = Math.ceil((bytes + size) / 16) * 16;
  }
  const numbers = (length: number, value: number) => bench.index(new Array<number>(length).fill(value));
  const tables: SlotTables = {
    slotOf: numbers(all * each, -1),
    uses: numbers(all * each, 0),
    keyOf: numbers(count, -1),
    stamps: numbers(count, 0),
    // Uses are soon halved.
    calls: numbers(1, AGE_PASSES * (layers ?? 1) - 5),
    list: numbers(1 + 2 * each, 0),
  };
  const memory = bench.memory.fill(bench.memory.tensor('u8', [count, bytes]), () => 0);
  return { parts, bytes, count, tables, memory, counts: numbers(3, 0) };
}
type Slots = ReturnType<typeof slotsFor>;

/** Every slot has one of the last experts, some of which were wanted more often, or sooner. */
function fillSlots(bench: Workbench, { tables, count }: Slots): void {
  const keys = elementCount(tables.slotOf.shape);
  bench.memory.fill(tables.keyOf, (slot) => keys - 1 - slot);
  bench.memory.fill(tables.slotOf, (key) => (keys - 1 - key < count ? keys - 1 - key : -1));
  bench.memory.fill(tables.uses, () => Math.floor(bench.random() * 4) << 10);
  bench.memory.fill(tables.stamps, () => Math.floor(bench.random() * 50));
}

/** A layer's experts as a file has them: part after part of one expert after the other, with odd gaps. */
function homeOf(bench: Workbench, experts: number, { parts }: Slots) {
  const rows: number[][] = [parts.flatMap(({ offset, bytes }) => [offset, bytes])];
  let at = 0;
  for (let e = 0; e < experts; e++) {
    rows.push(
      parts.flatMap(({ bytes }) => {
        const begins = at;
        at += bytes + (GAPS[Math.floor(bench.random() * GAPS.length)] ?? 0);
        return [begins, 0];
      }),
    );
  }
  const memory = bench.memory.tensor('u8', [at], Math.floor(bench.random() * 17));
  const home = bench.memory.fill(memory, () => Math.floor(bench.random() * 256));
  return { home, places: bench.table(rows) };
}

export function slotCases(device: KernelDevice): void {
  it.each(POOLS)(
    'bring_experts of %i layers of %i experts in %i slots, %i tokens of %i choices',
    async (layers, experts, count, tokens, each) => {
      device.use();
      const bench = device.workbench(experts + count);
      const parts = count > 1000 ? FEW_PARTS : experts === 5 ? LONG_PARTS : SHORT_PARTS;
      const slots = slotsFor(bench, [layers, experts, count], parts);
      if (count > 1000) fillSlots(bench, slots);
      const homes = Array.from({ length: Math.min(layers, CALLS) }, () => homeOf(bench, experts, slots));
      for (let call = 0; call < CALLS; call++) {
        const layer = call % layers;
        const { home, places } = present(homes[layer], 'a layer');
        const { tables, counts, memory } = slots;
        const chosen = choices(bench, tokens, each, experts);
        const keys = { firstKey: layer * experts, ageCalls: AGE_PASSES * layers };
        await check(
          device,
          bench,
          { op: 'bring_experts', experts: chosen, slots: memory, home, places, tables, counts, ...keys },
          0,
        );
      }
    },
  );

  it.each(WEIGHT_TYPES)(
    'expert_linear of %s weights in slots gives the bits of any other place',
    async (dtype) => {
      device.use();
      for (const tokens of [1, 3, 40]) {
        const bench = device.workbench(tokens, false);
        const [experts, outputs, inputs] = [24, 40, 72];
        const stored = bench.weights(dtype, experts, [outputs, inputs]);
        const weights = stored.map((weight) => denseWeight({ ...weight, strides: [inputs, 1] }));
        await compare(device, bench, {
          tokens,
          each: 2,
          weights,
        });
      }
    },
  );

  it('expert_linear of codes and scales in slots gives the bits of any other place', async () => {
    device.use();
    const format = formatOf('e4m3', 'bf16', { rowGroup: 16, inputGroup: 32 });
    for (const tokens of [1, 40]) {
      const bench = device.workbench(tokens, false);
      const weights = Array.from({ length: 24 }, (): Weight => {
        const codes = bench.memory.fill(bench.stored('e4m3', [32, 64]), () => bench.random() * 4 - 2);
        const scales = bench.memory.fill(bench.stored('f32', [2, 2]), () => bench.random() + 0.5);
        return { format, shape: [32, 64], firstRow: 0, parts: { codes, scales } };
      });
      await compare(device, bench, { tokens, each: 2, weights });
    }
  });
}

/** A product with an expert that nobody brought. */
export function productWithoutExpert(bench: Workbench): Op {
  const [experts, outputs, inputs] = [4, 8, 16];
  const slots = slotsFor(bench, [1, experts, 2], [outputs * inputs * 4]);
  return productIn(slots, {
    out: bench.activation([1, outputs]),
    x: bench.activation([1, inputs]),
    experts: bench.table([[2]]),
    weight: denseWeight(bench.memory.tensor('f32', [outputs, inputs])),
  });
}

/** Brings what is chosen, and multiplies with it and with the same weights where they are. */
async function compare(
  device: KernelDevice,
  bench: Workbench,
  { tokens, each, weights: all }: { tokens: number; each: number; weights: readonly Weight[] },
): Promise<void> {
  const first = present(all[0], 'an expert');
  const tensors = Object.values(first.parts);
  const slots = slotsFor(bench, [1, all.length, all.length], tensors.map(bytesOf));
  const begin = present(first.parts.codes, 'codes').offsetBytes;
  const home: Tensor = {
    memory: bench.memory.memory,
    offsetBytes: begin,
    dtype: 'u8',
    shape: [0],
    strides: [1],
  };
  const ends = all
    .flatMap(({ parts }) => Object.values(parts))
    .map((part) => part.offsetBytes + bytesOf(part));
  const places = bench.table([
    slots.parts.flatMap(({ offset, bytes }) => [offset, bytes]),
    ...all.map(({ parts }) => Object.values(parts).flatMap((part) => [part.offsetBytes - begin, 0])),
  ]);
  const experts = choices(bench, tokens, each, all.length);
  const { memory, tables, counts } = slots;
  const whole = { ...home, shape: [Math.max(...ends) - begin] };
  await device.run(
    {
      op: 'bring_experts',
      experts,
      slots: memory,
      home: whole,
      places,
      tables,
      counts,
      firstKey: 0,
      ageCalls: 9,
    },
    bench,
  );
  const [N, K] = first.shape;
  const [x, out, other] = [
    device.productInput(bench, first.format.type, [tokens, K]),
    bench.activation([tokens * each, N]),
    bench.activation([tokens * each, N]),
  ];
  await device.run({ op: 'expert_linear', out, x, experts, weights: all }, bench);
  await device.run(productIn(slots, { out: other, x, experts, weight: first }), bench);
  expect(bench.memory.read(other)).toEqual(bench.memory.read(out));
}

function bytesOf({ shape, dtype }: Tensor): number {
  return elementCount(shape) * DTYPE_BYTES[dtype];
}

/** The product with experts that lie in slots and are like `weight`. */
function productIn(
  { parts, bytes, count, tables, memory }: Slots,
  { out, x, experts, weight }: { out: Tensor; x: Tensor; experts: Tensor; weight: Weight },
): Op {
  const at = (slot: number): Weight => {
    const names = Object.entries(weight.parts);
    const placed = names.map(([name, part], i) => {
      const offsetBytes = memory.offsetBytes + slot * bytes + (parts[i]?.offset ?? 0);
      return [name, { ...part, memory: memory.memory, offsetBytes }];
    });
    return { ...weight, parts: Object.fromEntries(placed) as Weight['parts'] };
  };
  const slots = { table: tables.slotOf, memory, count, bytes };
  return { op: 'expert_linear', out, x, experts, weights: [at(0), at(count - 1)], slots };
}
