// Rows of a table on the host: found at once where they are known, and read ahead where positions go on.

import { describe, expect, it } from 'vitest';
import type { RowTable } from '../../offload/model/model.js';
import { rowSlotBytes } from '../../offload/model/table-rows.js';
import { RowCache, type RowLease } from '../../offload/stream/row-cache.js';
import { WeightSource } from '../../offload/stream/weight-source.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

const COLUMNS = 8;
const PATH = '/weights.safetensors';
const FIRST_BYTE = 1002;

interface Setting {
  readonly rowsFrom?: RowTable['rowsFrom'];
  readonly rowCount?: number;
  readonly slots?: number;
  readonly failsRead?: (request: number) => boolean;
}

/** A table of 16-bit rows in a simulated file, and a cache of it. */
class Fixture {
  readonly backend: SimulatedBackend;
  readonly cache: RowCache;
  readonly #content: Uint8Array;

  constructor({ rowsFrom = 'position', rowCount = 100, slots = 64, failsRead = () => false }: Setting = {}) {
    const random = new Random(5);
    const sizeBytes = rowCount * COLUMNS * 2;
    this.#content = Uint8Array.from({ length: FIRST_BYTE + sizeBytes }, () => random.between(0, 255));
    const files = new Map([[PATH, this.#content]]);
    this.backend = new SimulatedBackend({
      seed: 3,
      deviceCount: 1,
      computesInPlace: false,
      files,
      failsRead,
    });
    const extent = { fileIndex: 0, fileOffset: FIRST_BYTE, sizeBytes };
    const table = {
      key: 'table',
      rowCount,
      columns: COLUMNS,
      dtype: 'f16',
      extent,
      rowsFrom,
      rowOffset: 0,
    } as const;
    const memory = this.backend.allocateHost(slots * rowSlotBytes(table), 'control');
    this.cache = new RowCache(table, new WeightSource(this.backend, [PATH]), memory, () => undefined);
  }

  get reads(): number {
    return this.backend.driveStats.requests;
  }

  /** The lease, whose rows must be the table's. */
  async lookup(...rows: number[]): Promise<RowLease> {
    const found = Promise.resolve(this.cache.lookup(Int32Array.from(rows)));
    const lease = await this.backend.until(found, 'a look-up');
    expect(this.#rowsOf(lease)).toEqual(rows.map((row) => this.#row(FIRST_BYTE + row * COLUMNS * 2)));
    return lease;
  }

  /** Looked up and given back. */
  async use(...rows: number[]): Promise<void> {
    (await this.lookup(...rows)).release();
  }

  idle(): Promise<void> {
    return this.backend.until(this.cache.idle(), 'the read ahead');
  }

  /** Whether these rows are there without a wait. */
  knows(...rows: number[]): boolean {
    const found = this.cache.lookup(Int32Array.from(rows));
    if (found instanceof Promise) throw new Error('a look-up of rows that are not there is under way');
    found.release();
    return true;
  }

  #rowsOf({ table, indices }: RowLease): number[][] {
    const bytes = (table.memory as ReturnType<SimulatedBackend['allocateHost']>).bytes;
    return Array.from(indices, (index) => {
      const start = table.offsetBytes + index * 2;
      return [...bytes.subarray(start, start + COLUMNS * 2)];
    });
  }

  #row(start: number): number[] {
    return [...this.#content.subarray(start, start + COLUMNS * 2)];
  }
}

describe('rows that the table lacks', () => {
  it.each([-1, 100, 2 ** 31 - 1])('row %i is refused, and nothing is read or held for it', async (row) => {
    const fixture = new Fixture({ rowsFrom: 'token' });
    await fixture.use(5);
    const wanted = Promise.resolve(fixture.cache.lookup(Int32Array.of(5, row, 6)));
    await expect(fixture.backend.until(wanted, 'a look-up')).rejects.toMatchObject({
      code: 'BAD_INPUT',
      message: expect.stringContaining(`row ${row} of the table of table`),
    });
    expect(fixture.reads).toBe(1);
    await fixture.use(5, 99, 0);
    expect(fixture.reads).toBe(3);
  });
});

describe('rows of positions', () => {
  it('are there at every step of a sequence that goes on, each read once', async () => {
    const fixture = new Fixture();
    await fixture.use(0, 1, 2);
    await fixture.idle();
    for (let row = 3; row < 100; row++) {
      expect(fixture.knows(row)).toBe(true);
      await fixture.idle();
    }
    expect(fixture.reads).toBe(100);
    expect(fixture.backend.driveStats.inFlight).toBe(0);
  });

  it('are read once, also when one is wanted while it is on its way', async () => {
    const fixture = new Fixture();
    await fixture.use(0);
    await fixture.use(1);
    await fixture.use(20, 21);
    await fixture.idle();
    // As far as row 21 reaches.
    expect(fixture.reads).toBe(21 + 32 + 1);
  });

  it('share half of the slots among the sequences that go on', async () => {
    const fixture = new Fixture({ slots: 24, rowCount: 1000 });
    await fixture.use(100, 200, 300);
    await fixture.idle();
    expect(fixture.reads).toBe(3 + 3 * 4);
    expect(fixture.knows(101, 102, 103, 104, 201, 204, 301, 304)).toBe(true);
  });

  it('take no slot that a look-up holds', async () => {
    const fixture = new Fixture({ slots: 4 });
    const held = await fixture.lookup(10, 20, 30);
    const last = await fixture.lookup(40);
    await fixture.idle();
    expect(fixture.reads).toBe(4);
    expect(fixture.knows(10, 20, 30, 40)).toBe(true);
    last.release();
    held.release();
    // One run has half of the slots, so that of the four that idle two make room.
    await fixture.use(40);
    await fixture.idle();
    expect(fixture.reads).toBe(6);
    expect(fixture.knows(41, 42)).toBe(true);
  });

  it('are read by the look-up that wants them where reading ahead has failed', async () => {
    let failing = false;
    const fixture = new Fixture({ failsRead: () => failing });
    await fixture.use(0);
    await fixture.idle();
    failing = true;
    // The next 32 rows fail to come, which nobody hears of.
    for (const row of [16, 17]) expect(fixture.knows(row)).toBe(true);
    await fixture.idle();
    expect(fixture.knows(32)).toBe(true);
    await fixture.idle();
    await expect(fixture.lookup(33)).rejects.toThrow('cannot be read at offset');
    failing = false;
    await fixture.use(33);
    await fixture.idle();
    expect(fixture.knows(34, 65)).toBe(true);
  });

  it('end where the table ends', async () => {
    const fixture = new Fixture({ rowCount: 10 });
    await fixture.use(7);
    await fixture.idle();
    await fixture.use(8, 9);
    await fixture.idle();
    expect(fixture.reads).toBe(3);
  });
});

it('rows of tokens are read when they are wanted, and kept', async () => {
  const fixture = new Fixture({ rowsFrom: 'token' });
  await fixture.use(5, 7, 5);
  await fixture.idle();
  expect(fixture.reads).toBe(2);
  expect(fixture.knows(7, 5, 7)).toBe(true);
});

it('a look-up whose rows cannot be read leaves the slots to the next one', async () => {
  let failing = true;
  const fixture = new Fixture({ rowsFrom: 'token', slots: 2, failsRead: () => failing });
  for (let round = 0; round < 3; round++) {
    await expect(fixture.lookup(1, 2)).rejects.toThrow('cannot be read at offset');
  }
  failing = false;
  await fixture.use(1, 2);
  await fixture.use(2, 3);
  expect(fixture.reads).toBe(6 + 2 + 1);
});
