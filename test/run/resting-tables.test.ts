// Tables of tokens on their way to rest: every byte is there before anybody finds a row, and a drive that fails stops nobody.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { ModelSpec, RowTable } from '../../offload/model/model.js';
import { tablePieces } from '../../offload/model/table-rows.js';
import { RestingTables } from '../../offload/run/resting-tables.js';
import { WeightSource } from '../../offload/stream/weight-source.js';
import { Trace } from '../../offload/trace.js';
import { MiB } from '../../offload/units.js';
import { simulated } from '../simulator/memory.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

const PATH = '/weights.safetensors';
const FIRST_BYTE = 4099;
const COLUMNS = 64;
/** Three pieces. */
const ROWS = (17 * MiB) / (2 * COLUMNS);
const TABLE: RowTable = {
  key: 'tokens',
  rowCount: ROWS,
  columns: COLUMNS,
  dtype: 'bf16',
  extent: { fileIndex: 0, fileOffset: FIRST_BYTE, sizeBytes: ROWS * COLUMNS * 2 },
  rowsFrom: 'token',
  rowOffset: 0,
};
const POSITIONS: RowTable = { ...TABLE, key: 'positions', rowsFrom: 'position' };

class Fixture {
  readonly content: Uint8Array;
  readonly backend: SimulatedBackend;
  readonly tables: RestingTables;

  constructor(tier: 'gpu' | 'dram', failsRead: (request: number) => boolean = () => false) {
    const random = new Random(7);
    this.content = new Uint8Array(FIRST_BYTE + TABLE.extent.sizeBytes);
    for (let at = 0; at < this.content.length; at += 97) this.content[at] = random.between(1, 255);
    this.backend = new SimulatedBackend({
      seed: 3,
      deviceCount: 2,
      computesInPlace: false,
      files: new Map([[PATH, this.content]]),
      failsRead,
    });
    // Nothing else of a model is asked for.
    const model = { tables: [POSITIONS, TABLE] } as unknown as ModelSpec;
    const source = new WeightSource(this.backend, [PATH]);
    this.tables = new RestingTables({ backend: this.backend, model, source, trace: new Trace(false), tier });
  }

  /** What a device finds of the table. */
  bytesOn(device: number): Uint8Array | undefined {
    const found = this.tables.find(present(this.backend.devices[device], 'device'), TABLE);
    const { sizeBytes } = TABLE.extent;
    return found && simulated(found.memory).bytes.subarray(found.offsetBytes, found.offsetBytes + sizeBytes);
  }

  get reads(): number {
    return this.backend.driveStats.requests;
  }

  /** Until nothing happens any more. */
  settle(): Promise<void> {
    return this.backend.until(this.tables.stop(), 'the tables');
  }
}

describe.each(['gpu', 'dram'] as const)('tables at rest in the tier %s', (tier) => {
  it('are found when all of their bytes have come, by every device, but for those of positions', async () => {
    const fixture = new Fixture(tier);
    const { tables, backend } = fixture;
    expect(fixture.bytesOn(0)).toBeUndefined();
    while (!tables.areThere) {
      tables.goOn();
      await fixture.settle();
    }
    for (const device of [0, 1]) {
      expect(
        Buffer.compare(present(fixture.bytesOn(device), 'bytes'), fixture.content.subarray(FIRST_BYTE)),
      ).toBe(0);
    }
    expect(tables.find(present(backend.devices[0], 'device'), POSITIONS)).toBeUndefined();
  });

  it('go on where they were stopped, and read no piece twice', async () => {
    const fixture = new Fixture(tier);
    for (let turn = 1; turn <= tablePieces(TABLE).length; turn++) {
      expect(fixture.tables.areThere).toBe(false);
      fixture.tables.goOn();
      await fixture.settle();
      expect(fixture.reads).toBe(turn);
    }
    expect(fixture.tables.areThere).toBe(true);
    fixture.tables.goOn();
    await fixture.settle();
    expect(fixture.reads).toBe(tablePieces(TABLE).length);
  });

  it('are never there where the drive fails, which whoever looks for a row is told', async () => {
    const fixture = new Fixture(tier, (request) => request === 1);
    for (let turn = 0; turn < 4; turn++) {
      fixture.tables.goOn();
      await fixture.settle();
    }
    expect(fixture.tables.areThere).toBe(false);
    expect(fixture.bytesOn(0)).toBeUndefined();
    expect(fixture.reads).toBe(2);
  });
});
