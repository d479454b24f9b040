// What every backend promises the executor: one suite that each implementation runs.

import { describe, expect, it } from 'vitest';
import { OperatingError, present } from '../../offload/errors.js';
import {
  type Backend,
  type Device,
  type DeviceEvent,
  type HostMemory,
  READ_ALIGNMENT_BYTES,
  type ReadRequest,
} from '../../offload/port/backend.js';
import type { Memory } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { rowCopyContract } from './row-copy-contract.js';

/** A backend whose drive holds `files`, by name; reads go to `path(name)`. */
export interface OpenedBackend {
  readonly backend: Backend;
  path(name: string): string;
  /** Awaits what depends on the backend's time. */
  until<T>(promise: Promise<T>): Promise<T>;
}

export type OpenBackend = (files: ReadonlyMap<string, Uint8Array>) => OpenedBackend;

const FILE_BYTES = 5 * READ_ALIGNMENT_BYTES + 777;
const CONTENT = Uint8Array.from({ length: FILE_BYTES }, (_, at) => (at * 31 + (at >> 8) * 7) & 0xff);
const FILES = new Map([
  ['a.bin', CONTENT],
  ['b.bin', CONTENT.map((byte) => byte ^ 0xff)],
]);

/** A read of `blocks` aligned blocks of a file. */
function request(
  backend: Backend,
  path: string,
  fromBlock: number,
  blocks: number,
  toBlock: number,
  requiredBytes = blocks * READ_ALIGNMENT_BYTES,
): ReadRequest {
  return {
    file: backend.openFile(path),
    fileOffset: fromBlock * READ_ALIGNMENT_BYTES,
    sizeBytes: blocks * READ_ALIGNMENT_BYTES,
    requiredBytes,
    memoryOffset: toBlock * READ_ALIGNMENT_BYTES,
  };
}

function same(found: Uint8Array, expected: Uint8Array): boolean {
  return Buffer.compare(found, expected) === 0;
}

export function backendContract(name: string, open: OpenBackend): void {
  /** Runs a test on a backend of its own and closes it. */
  async function on(run: (opened: OpenedBackend) => Promise<void>): Promise<void> {
    const opened = open(FILES);
    try {
      await run(opened);
    } finally {
      await opened.backend.close();
    }
  }

  /** Memory of the device's own with these bytes, uploaded through control memory. */
  function upload(backend: Backend, device: Device, bytes: Uint8Array): Memory {
    const host = backend.allocateHost(bytes.length, 'control');
    host.bytes.set(bytes);
    const memory = device.allocate(bytes.length);
    device.compute.copy(memory, 0, host, 0, bytes.length);
    return memory;
  }

  function download(backend: Backend, device: Device, memory: Memory, sizeBytes: number): HostMemory {
    const host = backend.allocateHost(sizeBytes, 'control');
    device.compute.copy(host, 0, memory, 0, sizeBytes);
    return host;
  }

  describe(`backend contract: ${name}`, () => {
    it('has devices with names of their own', () =>
      on(async ({ backend }) => {
        expect(backend.devices.length).toBeGreaterThan(0);
        expect(new Set(backend.devices.map((device) => device.name)).size).toBe(backend.devices.length);
      }));

    describe('host memory', () => {
      it('has the asked size, keeps what is written, and is always seen through the same view', () =>
        on(async ({ backend }) => {
          for (const purpose of ['stream', 'resident', 'control'] as const) {
            const one = backend.allocateHost(2 * READ_ALIGNMENT_BYTES, purpose);
            const other = backend.allocateHost(2 * READ_ALIGNMENT_BYTES, purpose);
            expect(one.id).not.toBe(other.id);
            expect([one.sizeBytes, one.bytes.length]).toEqual([8192, 8192]);
            expect(one.bytes).toBe(one.bytes);
            expect(one.bytes.byteOffset % 8).toBe(0);
            one.bytes.fill(1);
            other.bytes.fill(2);
            expect(one.bytes.every((byte) => byte === 1)).toBe(true);
          }
        }));

      it('may be of any size', () =>
        on(async ({ backend }) => {
          const memory = backend.allocateHost(13, 'control');
          expect([memory.sizeBytes, memory.bytes.length]).toEqual([13, 13]);
        }));
    });

    describe('reads', () => {
      it('put every byte at its place, from several files in one batch, and nothing beside it', () =>
        on(async ({ backend, path, until }) => {
          const into = backend.allocateHost(8 * READ_ALIGNMENT_BYTES, 'stream');
          into.bytes.fill(0xee);
          const span = await until(
            backend.read(
              [request(backend, path('a.bin'), 1, 2, 4), request(backend, path('b.bin'), 0, 1, 1)],
              into,
            ),
          );
          expect(same(into.bytes.subarray(16384, 24576), CONTENT.subarray(4096, 12288))).toBe(true);
          const other = present(FILES.get('b.bin'), 'file').subarray(0, 4096);
          expect(same(into.bytes.subarray(4096, 8192), other)).toBe(true);
          for (const [start, end] of [
            [0, 4096],
            [8192, 16384],
            [24576, 32768],
          ]) {
            expect(into.bytes.subarray(start, end).every((byte) => byte === 0xee)).toBe(true);
          }
          expect(span.bytes).toBe(3 * READ_ALIGNMENT_BYTES);
          expect(span.startMs).toBeLessThanOrEqual(span.endMs);
          expect(span.endMs).toBeLessThanOrEqual(backend.nowMs());
        }));

      it('may stop at the end of the file once what is required has arrived', () =>
        on(async ({ backend, path, until }) => {
          const into = backend.allocateHost(2 * READ_ALIGNMENT_BYTES, 'stream');
          const required = READ_ALIGNMENT_BYTES + 777;
          await until(backend.read([request(backend, path('a.bin'), 4, 2, 0, required)], into));
          expect(same(into.bytes.subarray(0, required), CONTENT.subarray(4 * 4096))).toBe(true);
        }));

      it('reject when the file ends before what is required, naming file and offset', () =>
        on(async ({ backend, path, until }) => {
          const into = backend.allocateHost(2 * READ_ALIGNMENT_BYTES, 'stream');
          const short = until(backend.read([request(backend, path('a.bin'), 4, 2, 0)], into));
          const error: unknown = await short.catch((reason: unknown) => reason);
          expect(error).toBeInstanceOf(OperatingError);
          expect((error as OperatingError).code).toBe('FILE_CHANGED');
          expect((error as OperatingError).message).toContain(path('a.bin'));
          expect((error as OperatingError).message).toMatch(/offset \d+/);
        }));

      it('overlap, and each knows its own end', () =>
        on(async ({ backend, path, until }) => {
          const memories = Array.from({ length: 12 }, () => backend.allocateHost(4096, 'stream'));
          const reads = memories.map((memory, index) =>
            backend.read([request(backend, path(index % 2 ? 'a.bin' : 'b.bin'), index % 5, 1, 0)], memory),
          );
          await until(Promise.all(reads));
          memories.forEach((memory, index) => {
            const file = present(FILES.get(index % 2 ? 'a.bin' : 'b.bin'), 'file');
            const from = (index % 5) * 4096;
            expect(same(memory.bytes, file.subarray(from, from + 4096))).toBe(true);
          });
        }));

      it('of nothing are done', () =>
        on(async ({ backend, until }) => {
          const into = backend.allocateHost(4096, 'stream');
          expect((await until(backend.read([], into))).bytes).toBe(0);
        }));

      it('need a file that exists', () =>
        on(async ({ backend, path }) => {
          expect(() => backend.openFile(path('absent.bin'))).toThrow(OperatingError);
          expect(() => backend.openFile(path('absent.bin'))).toThrow(/absent\.bin cannot be opened/);
        }));

      it('know the sizes of files', () =>
        on(async ({ backend, path }) => {
          expect(backend.openFile(path('a.bin')).sizeBytes).toBe(FILE_BYTES);
        }));
    });

    describe('streams', () => {
      it('copy in order, at any offset, between host and device', () =>
        on(async ({ backend, until }) => {
          for (const device of backend.devices) {
            const memory = upload(backend, device, CONTENT.subarray(0, 3001));
            const second = device.allocate(4000);
            device.compute.copy(second, 7, memory, 3, 1001);
            device.compute.copy(second, 100, memory, 2000, 50); // over a part of the first
            device.compute.copy(second, 1008, memory, 0, 0);
            const host = download(backend, device, second, 1010);
            await until(device.compute.record().reached());
            const expected = CONTENT.slice(3, 1004);
            expected.set(CONTENT.subarray(2000, 2050), 93);
            expect(same(host.bytes.subarray(7, 1008), expected)).toBe(true);
          }
        }));

      it('copy between devices', () =>
        on(async ({ backend, until }) => {
          const first = present(backend.devices[0], 'device');
          const last = present(backend.devices.at(-1), 'device');
          const from = upload(backend, first, CONTENT.subarray(0, 500));
          const to = last.allocate(600);
          last.gather.wait(first.compute.record());
          last.gather.copy(to, 50, from, 100, 400);
          last.compute.wait(last.gather.record());
          const host = download(backend, last, to, 450);
          await until(last.compute.record().reached());
          expect(same(host.bytes.subarray(50), CONTENT.subarray(100, 500))).toBe(true);
        }));

      it('run operations in order with copies', () =>
        on(async ({ backend, until }) => {
          const device = present(backend.devices[0], 'device');
          const table = Uint8Array.from(new Uint8Array(Float32Array.of(1, 1, 2, 2, 3, 3).buffer));
          const rows = Uint8Array.from(new Uint8Array(Int32Array.of(2, 0, 2).buffer));
          const tableMemory = upload(backend, device, table);
          const rowMemory = upload(backend, device, rows);
          const out = device.allocate(24);
          device.compute.launch({
            op: 'gather_rows',
            out: tensor(out, 0, 'f32', [3, 2]),
            table: tensor(tableMemory, 0, 'f32', [3, 2]),
            rows: tensor(rowMemory, 0, 'i32', [3]),
            accumulate: false,
            scale: 1,
          });
          const host = download(backend, device, out, 24);
          await until(device.compute.record().reached());
          const result = new Float32Array(host.bytes.buffer, host.bytes.byteOffset, 6);
          // Simulated kernels do no arithmetic, but equal rows give equal results everywhere.
          expect([result[0], result[1]]).toEqual([result[4], result[5]]);
          expect(result[0]).not.toBe(result[2]);
        }));
    });

    describe('kept work', () => {
      it('is queued when it is repeated, in its order among the rest, as often as that', () =>
        on(async ({ backend, until }) => {
          for (const device of backend.devices) {
            const { compute } = device;
            const host = backend.allocateHost(64, 'control');
            const [memory, out] = [device.allocate(64), backend.allocateHost(192, 'control')];
            let turn = 0;
            const kept = compute.keep(() => {
              compute.copy(memory, 0, host, 0, 64);
              compute.copy(memory, 8, host, 0, 8);
            });
            expect(kept.count).toBe(2);
            for (const value of [1, 2, 3]) {
              host.bytes.fill(value).fill(10 * value, 0, 8);
              compute.repeat(kept);
              compute.copy(out, 64 * turn++, memory, 0, 64);
              await until(compute.record().reached());
            }
            [1, 2, 3].forEach((value, index) => {
              const found = [...out.bytes.subarray(64 * index, 64 * index + 24)];
              expect(found).toEqual([...Array<number>(16).fill(10 * value), ...Array<number>(8).fill(value)]);
            });
          }
        }));

      it('neither records nor waits, and what throws keeps nothing back', () =>
        on(async ({ backend, until }) => {
          const { compute } = present(backend.devices[0], 'device');
          const event = compute.record();
          expect(() => compute.keep(() => compute.record())).toThrow('records nothing');
          expect(() => compute.keep(() => compute.wait(event))).toThrow('waits for nothing');
          expect(() => compute.keep(() => compute.keep(() => undefined))).toThrow('part by part');
          compute.repeat(compute.keep(() => undefined));
          await until(compute.record().reached());
        }));
    });

    rowCopyContract(on, CONTENT);

    describe('events', () => {
      it('have the time at which their stream reached them, and answer whenever they are asked', () =>
        on(async ({ backend, until }) => {
          const device = present(backend.devices[0], 'device');
          const first = device.compute.record();
          upload(backend, device, CONTENT);
          const second = device.compute.record();
          await until(second.reached());
          expect(first.timeMs).toBeLessThanOrEqual(second.timeMs);
          expect(second.timeMs).toBeLessThanOrEqual(backend.nowMs());
          // Asking again, and after the fact, is answered too.
          await until(Promise.all([first.reached(), second.reached(), second.reached()]));
        }));

      it('hold back a stream that waits, and only that', () =>
        on(async ({ backend, until }) => {
          const device = present(backend.devices.at(-1), 'device');
          if (device.fetch === device.compute) return; // in place one stream serves
          const from = upload(backend, device, CONTENT);
          const to = device.allocate(FILE_BYTES);
          device.fetch.wait(device.compute.record());
          device.fetch.copy(to, 0, from, 0, FILE_BYTES);
          const fetched = device.fetch.record();
          device.compute.wait(fetched);
          const host = download(backend, device, to, FILE_BYTES);
          const done = device.compute.record();
          await until(done.reached());
          expect(fetched.timeMs).toBeLessThanOrEqual(done.timeMs);
          expect(same(host.bytes, CONTENT)).toBe(true);
        }));

      it('that were reached long ago hold back nobody', () =>
        on(async ({ backend, until }) => {
          const device = present(backend.devices[0], 'device');
          const old = device.gather.record();
          await until(old.reached());
          device.compute.wait(old);
          await until(device.compute.record().reached());
        }));

      it('pass a baton around all streams of all devices many times', () =>
        on(async ({ backend, until }) => {
          const streams = backend.devices.flatMap(({ compute, fetch, gather }) => [compute, fetch, gather]);
          let event: DeviceEvent | undefined;
          const events: DeviceEvent[] = [];
          for (let round = 0; round < 50; round++) {
            for (const stream of streams) {
              if (event) stream.wait(event);
              event = stream.record();
              events.push(event);
            }
          }
          await until(present(event, 'event').reached());
          const times = events.map(({ timeMs }) => timeMs);
          expect(times.every((time, index) => index === 0 || time >= (times[index - 1] ?? 0))).toBe(true);
        }));
    });

    describe('closing', () => {
      it('rejects or completes what is under way, rejects what comes later, and may be called twice', async () => {
        const { backend, path } = open(FILES);
        const device = present(backend.devices[0], 'device');
        const into = backend.allocateHost(4096, 'stream');
        const file = request(backend, path('a.bin'), 0, 1, 0);
        const before = Promise.allSettled([backend.read([file], into), device.compute.record().reached()]);
        const [one, two] = [backend.close(), backend.close()];
        await Promise.all([one, two, before]);
        await backend.close();
        await expect(backend.read([file], into)).rejects.toMatchObject({ code: 'INTERRUPTED' });
      });

      it('lets work be queued that will never run: whoever waits for it is told', async () => {
        const { backend } = open(FILES);
        const device = present(backend.devices[0], 'device');
        const [from, to] = [device.allocate(64), device.allocate(64)];
        const before = device.compute.record();
        await backend.close();
        device.compute.copy(to, 0, from, 0, 64);
        device.compute.wait(before);
        await expect(device.compute.record().reached()).rejects.toBeDefined();
      });

      it('of a backend that did nothing', async () => {
        await open(FILES).backend.close();
      });
    });
  });
}
