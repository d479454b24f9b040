// Every byte of every weight arrives at its place, through reads, copies and shards, whatever the offsets in the files.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import {
  copiesOfShard,
  cutShards,
  type LayerSpec,
  layerOf,
  layoutLayer,
  type TensorSpec,
} from '../../offload/model/layout.js';
import { DEVICE_ALIGNMENT_BYTES, READ_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const UNTOUCHED = 0xee;

interface Drawn {
  readonly layer: LayerSpec;
  readonly files: Uint8Array[];
}

/** A layer over one to three files: neighbours, odd gaps, far apart, out of order; files may end right after a weight. */
function drawLayer(seed: number): Drawn {
  const random = randomFrom(seed);
  const used = Array.from({ length: 1 + randomInt(random, 3) }, () => randomInt(random, 9000));
  const weights = Array.from({ length: 1 + randomInt(random, 8) }, (_, index): TensorSpec => {
    const dtype = present((['f32', 'f16', 'bf16', 'i32'] as DType[])[randomInt(random, 4)], 'type');
    const shape = [1 + randomInt(random, 60), 1 + randomInt(random, 60)];
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    const fileIndex = randomInt(random, used.length);
    const gap = present([0, 0, 0, 1, 3, 255, 4095, 16_384, 16_385, 40_000][randomInt(random, 10)], 'gap');
    const fileOffset = present(used[fileIndex], 'file') + gap;
    used[fileIndex] = fileOffset + sizeBytes;
    return { key: `w${index}`, dtype, shape, extent: { fileIndex, fileOffset, sizeBytes } };
  });
  const files = used.map((sizeBytes) => {
    const content = new Uint8Array(sizeBytes);
    for (let i = 0; i < sizeBytes; i++) content[i] = randomInt(random, 256);
    return content;
  });
  return {
    layer: layerOf(
      'layer',
      weights.sort(() => random() - 0.5),
    ),
    files,
  };
}

function bytesOf({ files }: Drawn, { extent }: TensorSpec): Uint8Array {
  const file = present(files[extent.fileIndex], 'file');
  return file.subarray(extent.fileOffset, extent.fileOffset + extent.sizeBytes);
}

/** Does the layout's reads. */
function readInto(
  drawn: Drawn,
  runs: ReturnType<typeof layoutLayer>['host']['runs'],
  buffer: Uint8Array,
): void {
  for (const run of runs) {
    const file = present(drawn.files[run.fileIndex], 'file');
    buffer.set(file.subarray(run.fileOffset, run.fileOffset + run.sizeBytes), run.bufferOffset);
  }
}

const SEEDS = Array.from({ length: 120 }, (_, index) => index + 1);

describe('hostLayout', () => {
  it('reads aligned runs that do not overlap in the buffer and hold every weight', () => {
    for (const seed of SEEDS) {
      const drawn = drawLayer(seed);
      const { host } = layoutLayer(drawn.layer);
      let used = 0;
      for (const run of host.runs) {
        for (const value of [run.fileOffset, run.sizeBytes, run.bufferOffset]) {
          expect(value % READ_ALIGNMENT_BYTES).toBe(0);
        }
        expect(run.bufferOffset).toBe(used);
        used += run.sizeBytes;
        expect(run.requiredBytes).toBeLessThanOrEqual(run.sizeBytes);
        expect(run.sizeBytes - run.requiredBytes).toBeLessThan(READ_ALIGNMENT_BYTES);
        const fileBytes = present(drawn.files[run.fileIndex], 'file').length;
        expect(run.fileOffset + run.requiredBytes).toBeLessThanOrEqual(fileBytes);
      }
      expect(host.sizeBytes).toBe(used);
      const buffer = new Uint8Array(host.sizeBytes).fill(UNTOUCHED);
      readInto(drawn, host.runs, buffer);
      for (const { weight, offsetBytes } of host.placements) {
        const found = buffer.subarray(offsetBytes, offsetBytes + weight.extent.sizeBytes);
        expect(Buffer.compare(found, bytesOf(drawn, weight)), `seed ${seed} ${weight.key}`).toBe(0);
      }
      expect(host.placements).toHaveLength(drawn.layer.tensors.length);
    }
  });

  it('reads small gaps along and leaves out large ones', () => {
    const weight = (key: string, fileOffset: number): TensorSpec => ({
      key,
      dtype: 'f32',
      shape: [1024],
      extent: { fileIndex: 0, fileOffset, sizeBytes: 4096 },
    });
    const runsOf = (second: number) =>
      layoutLayer(layerOf('l', [weight('a', 0), weight('b', second)])).host.runs.length;
    expect(runsOf(4096 + 16 * 1024)).toBe(1);
    expect(runsOf(4096 + 64 * 1024)).toBe(2);
  });

  it('refuses an extent that does not fit the shape', () => {
    const weight: TensorSpec = {
      key: 'w',
      dtype: 'f16',
      shape: [3, 5],
      extent: { fileIndex: 0, fileOffset: 0, sizeBytes: 31 },
    };
    expect(() => layoutLayer(layerOf('layer', [weight]))).toThrow(/layer w: extent and shape agree/);
  });

  it('is empty for a layer without weights', () => {
    const { host, device } = layoutLayer(layerOf('empty', []));
    expect([host.sizeBytes, host.runs, device.sizeBytes, device.copies]).toEqual([0, [], 0, []]);
  });
});

describe('deviceLayout and shards', () => {
  it('put every weight at an aligned place of its own, by copies of all shards together', () => {
    for (const seed of SEEDS) {
      const drawn = drawLayer(seed);
      const { host, device } = layoutLayer(drawn.layer);
      const buffer = new Uint8Array(host.sizeBytes).fill(UNTOUCHED);
      readInto(drawn, host.runs, buffer);
      const deviceCount = 1 + (seed % 8);
      const target = new Uint8Array(device.sizeBytes).fill(UNTOUCHED);
      for (const shard of cutShards(device.sizeBytes, deviceCount)) {
        for (const { hostOffset, deviceOffset, sizeBytes } of copiesOfShard(device, shard)) {
          expect(deviceOffset >= shard.startBytes && deviceOffset + sizeBytes <= shard.endBytes).toBe(true);
          target.set(buffer.subarray(hostOffset, hostOffset + sizeBytes), deviceOffset);
        }
      }
      let used = 0;
      for (const { weight, offsetBytes } of device.placements) {
        expect(offsetBytes % DEVICE_ALIGNMENT_BYTES).toBe(0);
        expect(offsetBytes).toBeGreaterThanOrEqual(used);
        used = offsetBytes + weight.extent.sizeBytes;
        const found = target.subarray(offsetBytes, used);
        expect(Buffer.compare(found, bytesOf(drawn, weight)), `seed ${seed} ${weight.key}`).toBe(0);
      }
      expect(used).toBeLessThanOrEqual(device.sizeBytes);
    }
  });

  it('cover the device layout once: shards side by side, copies of one shard in none other', () => {
    for (const seed of SEEDS) {
      const { device } = layoutLayer(drawLayer(seed).layer);
      for (const deviceCount of [1, 2, 3, 8]) {
        const shards = cutShards(device.sizeBytes, deviceCount);
        expect(shards).toHaveLength(deviceCount);
        let covered = 0;
        for (const { startBytes, endBytes } of shards) {
          expect(startBytes).toBe(covered);
          expect(endBytes).toBeGreaterThanOrEqual(startBytes);
          covered = endBytes;
        }
        expect(covered).toBe(device.sizeBytes);
        const times = new Uint8Array(device.sizeBytes);
        for (const shard of shards) {
          for (const { deviceOffset, sizeBytes } of copiesOfShard(device, shard)) {
            for (let at = deviceOffset; at < deviceOffset + sizeBytes; at++) times[at] = (times[at] ?? 0) + 1;
          }
        }
        const expected = new Uint8Array(device.sizeBytes);
        for (const copy of device.copies)
          expected.fill(1, copy.deviceOffset, copy.deviceOffset + copy.sizeBytes);
        expect(Buffer.compare(times, expected)).toBe(0);
      }
    }
  });

  it('are of nearly equal size, and late ones may be empty', () => {
    expect(cutShards(1000, 3)).toEqual([
      { startBytes: 0, endBytes: 512 },
      { startBytes: 512, endBytes: 1000 },
      { startBytes: 1000, endBytes: 1000 },
    ]);
    expect(cutShards(0, 2)).toEqual([
      { startBytes: 0, endBytes: 0 },
      { startBytes: 0, endBytes: 0 },
    ]);
  });

  it('work beyond 2³² bytes', () => {
    const sizeBytes = 6 * 2 ** 32 + 256;
    const shards = cutShards(sizeBytes, 8);
    expect(shards.at(-1)?.endBytes).toBe(sizeBytes);
    expect(shards.every(({ startBytes }) => startBytes % DEVICE_ALIGNMENT_BYTES === 0)).toBe(true);
  });
});
