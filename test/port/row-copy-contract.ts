// What every backend promises of copies of rows: a part of the suite in backend-contract.ts.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { OpenedBackend } from './backend-contract.js';

/**
 * @param on runs a test on a backend of its own
 * @param content any 5000 bytes
 */
export function rowCopyContract(
  on: (run: (opened: OpenedBackend) => Promise<void>) => Promise<void>,
  content: Uint8Array,
): void {
  describe('copies of rows', () => {
    it('go at strides of their own, from the host, between devices and back, and nothing beside them', () =>
      on(async ({ backend, until }) => {
        const first = present(backend.devices[0], 'device');
        const last = present(backend.devices.at(-1), 'device');
        const [rows, rowBytes] = [37, 13];
        const host = backend.allocateHost(5000, 'control');
        host.bytes.set(content.subarray(0, 5000));
        const clear = backend.allocateHost(5000, 'control');
        clear.bytes.fill(0);
        const [near, far, out] = [
          first.allocate(5000),
          last.allocate(5000),
          backend.allocateHost(5000, 'control'),
        ];
        first.compute.copy(near, 0, clear, 0, 5000);
        last.compute.copy(far, 0, clear, 0, 5000);
        last.compute.copyRows({
          ...{
            to: far,
            toOffsetBytes: 0,
            toStrideBytes: 1,
            from: host,
            fromOffsetBytes: 0,
            fromStrideBytes: 1,
          },
          ...{ rowBytes: 1, rows: 0 },
        });
        const up = {
          to: near,
          toOffsetBytes: 3,
          toStrideBytes: 17,
          from: host,
          fromOffsetBytes: 11,
          fromStrideBytes: 130,
        };
        first.compute.copyRows({ ...up, rowBytes, rows });
        last.gather.wait(first.compute.record());
        last.gather.wait(last.compute.record());
        const across = {
          to: far,
          toOffsetBytes: 29,
          toStrideBytes: 129,
          from: near,
          fromOffsetBytes: 3,
          fromStrideBytes: 17,
        };
        last.gather.copyRows({ ...across, rowBytes, rows });
        last.compute.wait(last.gather.record());
        const down = {
          to: out,
          toOffsetBytes: 0,
          toStrideBytes: 100,
          from: far,
          fromOffsetBytes: 0,
          fromStrideBytes: 100,
        };
        last.compute.copyRows({ ...down, rowBytes: 100, rows: 50 });
        await until(last.compute.record().reached());
        const expected = new Uint8Array(5000);
        for (let row = 0; row < rows; row++) {
          const begin = 11 + 130 * row;
          expected.set(content.subarray(begin, begin + rowBytes), 29 + 129 * row);
        }
        expect(Buffer.compare(out.bytes, expected)).toBe(0);
      }));

    it('may be kept work', () =>
      on(async ({ backend, until }) => {
        const { compute } = present(backend.devices[0], 'device');
        const [host, out] = [backend.allocateHost(64, 'control'), backend.allocateHost(64, 'control')];
        const rows = { toOffsetBytes: 1, toStrideBytes: 8, fromOffsetBytes: 2, fromStrideBytes: 16 };
        const kept = compute.keep(() =>
          compute.copyRows({ to: out, from: host, ...rows, rowBytes: 3, rows: 4 }),
        );
        out.bytes.fill(0);
        for (const value of [1, 2, 3, 4]) {
          host.bytes.fill(value);
          compute.repeat(kept);
          await until(compute.record().reached());
          const column = [0, value, value, value, 0, 0, 0, 0];
          expect([...out.bytes.subarray(0, 32)]).toEqual([...column, ...column, ...column, ...column]);
        }
      }));
  });
}
