// Experts of files that come to slots of a device by way of slots of the host, on any device with memory of its own: whose bytes lie there.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { PlannedExperts } from '../../offload/plan/plan.js';
import type { Backend, Device, ReadRequest } from '../../offload/port/backend.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { MAIL_STATE_WORDS } from '../../offload/port/host-ops.js';
import type { Tensor } from '../../offload/port/ops.js';
import { rows, tensor } from '../../offload/port/tensor.js';
import { DramSlots } from '../../offload/run/dram-slots.js';
import { roundUp } from '../../offload/units.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const PAGE = 4096;
const AGE_PASSES = 32;
/** Experts of a layer, chosen ones of a token, slots of the device and of the host; bytes by which parts lie beside a multiple of 16. */
const POOLS = [
  [6, 2, 2, 2, 0],
  [6, 2, 5, 7, 8],
  [9, 4, 4, 40, 4],
  [9, 4, 27, 4, 1],
  [7, 3, 9, 11, 2],
] as const;
/** By layer: the third one's experts do not change places with the others'. */
const PARTS = [
  [70_000, 96, 1, 2003],
  [70_000, 96, 1, 2003],
  [1024, 33_000, 640, 16],
] as const;
const CALLS = 40;

interface Layer {
  readonly experts: PlannedExperts;
  readonly places: Tensor;
  readonly counts: Tensor;
}

export function exchangeCases(open: () => Backend): void {
  it.each(POOLS)(
    '%i experts a layer, %i chosen, %i slots and %i of the host, %i bytes beside alignment',
    async (experts, chosen, count, behind, shift) => {
      const folder = mkdtempSync(join(tmpdir(), 'zi-exchange-'));
      const backend = open();
      try {
        const world = new World(backend, join(folder, 'experts'), { experts, count, behind, shift });
        for (let call = 0; call < CALLS; call++) await world.bring(call % PARTS.length, chosen);
        const { hits, misses, inHost, readBytes } = await world.counts();
        expect(hits + misses).toBe(CALLS * chosen);
        // One layer's do not stay when they leave.
        if (count < experts * PARTS.length && count + behind >= experts * PARTS.length)
          expect(inHost).toBeGreaterThan(0);
        expect(readBytes).toBeGreaterThan(0);
      } finally {
        await backend.close();
        rmSync(folder, { recursive: true });
      }
    },
  );
}

interface WorldOptions {
  readonly experts: number;
  readonly count: number;
  readonly behind: number;
  readonly shift: number;
}

class World {
  readonly #device: Device;
  readonly #backend: Backend;
  readonly #content: Buffer;
  /** By key: where each part begins in the file. */
  readonly #begins: number[][] = [];
  readonly #layers: Layer[];
  readonly #dram: DramSlots;
  readonly #slots: Tensor;
  readonly #tables: Record<'slotOf' | 'uses' | 'keyOf' | 'stamps' | 'calls' | 'list', Tensor>;
  readonly #counts: Tensor;
  readonly #random = randomFrom(7);
  readonly #experts: number;

  constructor(backend: Backend, path: string, { experts, count, behind, shift }: WorldOptions) {
    this.#backend = backend;
    this.#device = present(backend.devices[0], 'a device');
    this.#experts = experts;
    let at = 40 + shift;
    for (const parts of PARTS) {
      for (let expert = 0; expert < experts; expert++) {
        this.#begins.push(
          parts.map((bytes) => {
            const begin = at;
            at = roundUp(at + bytes, 16) + shift;
            return begin;
          }),
        );
      }
    }
    this.#content = Buffer.from(Array.from({ length: at }, () => Math.floor(this.#random() * 256)));
    writeFileSync(path, this.#content);
    const file = backend.openFile(path);
    const pieces = this.#begins.map((begins, key): ReadRequest[] => {
      const sizes = present(PARTS[Math.floor(key / experts)], 'parts');
      const first = Math.floor((begins[0] ?? 0) / PAGE) * PAGE;
      const requiredBytes = (begins.at(-1) ?? 0) + (sizes.at(-1) ?? 0) - first;
      return [
        { file, fileOffset: first, sizeBytes: roundUp(requiredBytes, PAGE), requiredBytes, memoryOffset: 0 },
      ];
    });
    const slotBytes = roundUp(
      Math.max(...PARTS.map((parts) => parts.reduce((sum, part) => sum + roundUp(part, 256), 0))),
      256,
    );
    this.#slots = this.#table('u8', [count, slotBytes], 0);
    const keys = experts * PARTS.length;
    this.#tables = {
      slotOf: this.#table('i32', [keys], -1),
      uses: this.#table('i32', [keys], 0),
      keyOf: this.#table('i32', [count], -1),
      stamps: this.#table('i32', [count], 0),
      calls: this.#table('i32', [1], 0),
      list: this.#table('i32', [1 + 2 * experts], 0),
    };
    this.#counts = this.#table('i32', [PARTS.length, 3], 0);
    const dramBytes = Math.max(...pieces.flatMap((piece) => piece.map(({ sizeBytes }) => sizeBytes)));
    this.#layers = PARTS.map((sizes, layer) => {
      let used = 0;
      const parts = sizes.map((sizeBytes, part) => {
        const offsetBytes = used;
        used = roundUp(used + sizeBytes, 256);
        return { matrix: `part ${part}`, name: 'codes' as const, offsetBytes, sizeBytes };
      });
      const own = this.#begins.slice(layer * experts, (layer + 1) * experts);
      const partOffsets = own.map((begins) =>
        begins.map((begin) => begin - Math.floor((begins[0] ?? 0) / PAGE) * PAGE),
      );
      const nothing = { sizeBytes: 0, placements: [] };
      const files = { base: { ...nothing, runs: [] }, experts: [], slotBytes: dramBytes, partOffsets };
      const base = { ...nothing, copies: [], slices: [] };
      const planned = {
        count: experts,
        base,
        parts,
        slotBytes,
        specs: [],
        hostOffsets: [],
        firstKey: layer * experts,
        files,
      };
      const row = parts.flatMap(({ offsetBytes, sizeBytes }) => [offsetBytes, sizeBytes]);
      const places = this.#table('i32', [1 + experts, row.length], 0, row);
      const counted = rows(this.#counts, layer, 1);
      return { experts: planned, places, counts: { ...counted, shape: [3], strides: [1] } };
    });
    this.#dram = new DramSlots({
      backend,
      device: this.#device,
      slots: { count, bytes: slotBytes, keys, choices: 1, mostTokens: 1 },
      behind: { count: behind, bytes: dramBytes },
      mixtures: this.#layers.map(({ experts: planned }) => planned),
      pieces,
      state: this.#table('i32', [MAIL_STATE_WORDS], 0),
      ageCalls: AGE_PASSES * PARTS.length,
    });
    this.#dram.worker.begin();
  }

  /** Some experts of a layer come, and then all that lie in slots have the file's bytes. */
  async bring(layer: number, chosen: number): Promise<void> {
    const { experts: planned, places, counts } = present(this.#layers[layer], 'layer');
    const all = Array.from({ length: this.#experts }, (_, expert) => expert);
    // Some are wanted more often.
    const wanted = Array.from(
      { length: chosen },
      () => all.splice(randomInt(this.#random, Math.ceil(all.length * this.#random())), 1)[0] ?? 0,
    );
    const experts = this.#table('i32', [1, chosen], 0, wanted);
    this.#device.compute.launch({
      op: 'bring_experts',
      experts,
      slots: this.#slots,
      home: null,
      places,
      tables: this.#tables,
      counts,
      firstKey: planned.firstKey,
      ageCalls: AGE_PASSES * PARTS.length,
      behind: this.#dram.operand,
    });
    const [keyOf, bytes] = [await this.#read(this.#tables.keyOf), await this.#read(this.#slots)];
    const keys = new Int32Array(keyOf.buffer, keyOf.byteOffset, keyOf.length / 4);
    for (const expert of wanted) expect(keys).toContain(planned.firstKey + expert);
    for (const [slot, key] of keys.entries()) {
      if (key < 0) continue;
      const { parts } = present(this.#layers[Math.floor(key / this.#experts)], 'layer').experts;
      for (const [part, { offsetBytes, sizeBytes }] of parts.entries()) {
        const begin = present(this.#begins[key]?.[part], 'a part');
        const at = slot * (this.#slots.shape[1] ?? 0) + offsetBytes;
        const same = Buffer.compare(
          bytes.subarray(at, at + sizeBytes),
          this.#content.subarray(begin, begin + sizeBytes),
        );
        expect(same, `part ${part} of expert ${key} in slot ${slot}`).toBe(0);
      }
    }
  }

  async counts() {
    const bytes = await this.#read(this.#counts);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const sum = (which: number) => words.reduce((all, one, i) => (i % 3 === which ? all + one : all), 0);
    const inHost = this.#dram.found;
    return { hits: sum(0), misses: sum(1), inHost, readBytes: this.#dram.files.stats().bytes };
  }

  /** On the device; `first` words may differ from the others. */
  #table(
    dtype: 'i32' | 'u8',
    shape: readonly number[],
    value: number,
    first: readonly number[] = [],
  ): Tensor {
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    const host = this.#backend.allocateHost(sizeBytes, 'control');
    host.bytes.fill(value);
    if (first.length > 0) new Int32Array(host.bytes.buffer, host.bytes.byteOffset, first.length).set(first);
    const memory = this.#device.allocate(sizeBytes);
    this.#device.compute.copy(memory, 0, host, 0, sizeBytes);
    return tensor(memory, 0, dtype, shape);
  }

  async #read({ memory, shape, dtype }: Tensor): Promise<Buffer<ArrayBuffer>> {
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    const host = this.#backend.allocateHost(sizeBytes, 'control');
    this.#device.compute.copy(host, 0, memory, 0, sizeBytes);
    await this.#device.compute.record().reached();
    return Buffer.from(host.bytes);
  }
}
