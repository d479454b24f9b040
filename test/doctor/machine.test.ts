// Descriptions of the machine: of the device that runs take by themselves, and measured with what it holds, not in DRAM.

import { expect, test } from 'vitest';
import {
  type BenchSizes,
  CpuBackend,
  GiB,
  MiB,
  measureCompute,
  measureLinks,
  measureTogether,
  present,
} from '../../offload/index.js';
import { togetherBytes } from '../../offload/measure/link.js';
import { gpuFinding, rateFindings } from '../../src/doctor/doctor.js';
import { describeGpus } from '../../src/doctor/machine.js';
import { chooseDevice } from '../../src/engine/engine-options.js';

const GPU = {
  name: 'A GPU',
  busId: '0',
  totalBytes: 80 * 1024 * MiB,
  freeBytes: 79 * 1024 * MiB,
  computeCapability: '9.0',
  multiprocessors: 132,
};

const SMALL: BenchSizes = {
  coldBytes: 2 * MiB,
  scratchBytes: MiB,
  weightShape: [128, 64],
  tokens: [1, 4, 16, 8192],
  heads: 4,
  kvHeads: 2,
  decode: [2, 64],
  prompt: [1, 32],
  rows: 2,
  batchMs: 1,
};

test('the device is the GPU that can be used, else the CPU', () => {
  expect(chooseDevice({ problem: '' })).toBe('cuda');
  expect(chooseDevice({ problem: 'no driver' })).toBe('cpu');
});

test.each(['in place', 'with memory of its own'])(
  'a device %s is measured by its own operations',
  async (kind) => {
    const backend = new CpuBackend(kind === 'in place' ? {} : { virtualDevices: 1 });
    try {
      const device = present(backend.devices[0], 'device');
      const compute = await measureCompute({
        backend,
        device,
        weightTypes: ['bf16', 'f32'],
        threads: 1,
        sizes: SMALL,
      });
      expect(compute.products.map(({ weightType }) => weightType)).toEqual(['bf16', 'f32']);
      for (const { points } of compute.products) {
        // Results of 8192 tokens do not fit into the scratch.
        expect(points.map(({ tokens }) => tokens)).toEqual([1, 4, 16]);
      }
      const { products: _, ...rates } = compute;
      for (const rate of Object.values(rates)) expect(rate).toBeGreaterThan(0);
    } finally {
      await backend.close();
    }
  },
);

test('links of devices, and what is free on them less what others may take', async () => {
  const backend = new CpuBackend({ virtualDevices: 2 });
  try {
    const links = await measureLinks(backend, MiB);
    expect(links.linkBytesPerSecond).toBeGreaterThan(0);
    const described = await describeGpus(backend, [GPU, { freeBytes: 10 * 1024 * MiB }]);
    expect(described).toMatchObject({ kind: 'gpu', count: 2, memoryBytes: (10 * 1024 - 256) * MiB });
  } finally {
    await backend.close();
  }
  const one = new CpuBackend({ virtualDevices: 1 });
  try {
    expect((await measureLinks(one, MiB)).peerBytesPerSecond).toBeNull();
    const both = await measureTogether(one, {
      copiedBytes: 4 * MiB,
      copyBytes: MiB,
      readBytes: MiB,
      readMs: 2,
    });
    expect(Math.min(both.linkBytesPerSecond, both.hostBytesPerSecond)).toBeGreaterThan(0);
  } finally {
    await one.close();
  }
});

test('what is read and copied beside each other is many times the caches, and part of what memory there is', () => {
  const server = togetherBytes(300 * MiB, 120 * GiB);
  expect(server.readBytes).toBeGreaterThanOrEqual(32 * 300 * MiB);
  expect(server.copiedBytes).toBeGreaterThanOrEqual(16 * 300 * MiB);
  expect(togetherBytes(0, 120 * GiB).readBytes).toBe(2 * GiB);
  const small = togetherBytes(300 * MiB, 4 * GiB);
  expect(small.readBytes + small.copiedBytes).toBeLessThan(2 * GiB);
});

test('a device that fails beside the reader is an error, and the reader ends by itself', async () => {
  const backend = new CpuBackend({ virtualDevices: 1 });
  const device = present(backend.devices[0], 'a device');
  const record = device.fetch.record.bind(device.fetch);
  let left = 8;
  device.fetch.record = () => {
    if (left-- === 0) throw new Error('the device is gone');
    return record();
  };
  const measuring = measureTogether(backend, {
    copyBytes: MiB,
    copiedBytes: MiB,
    readBytes: 2 * MiB,
    readMs: 20,
  });
  await expect(measuring).rejects.toThrow('the device is gone');
  await backend.close();
});

test('findings name the GPU, its link and what its products reach', () => {
  const finding = gpuFinding({
    problem: '',
    present: true,
    products: 'libcublasLt.so.13',
    devices: [GPU],
  }).finding;
  expect(finding).toBe('A GPU (9.0), 79.0 GiB of 80.0 GiB free; products by libcublasLt.so.13');
  const points = [{ tokens: 2048, flopsPerSecond: 797e12 }];
  const findings = rateFindings({
    name: '1 × A GPU',
    dramBytes: 1,
    drive: null,
    devices: {
      kind: 'gpu',
      count: 1,
      memoryBytes: 1,
      linkBytesPerSecond: 54.5e9,
      peerBytesPerSecond: null,
    },
    compute: {
      memoryBytesPerSecond: 2.4e12,
      peakFlopsPerSecond: 797e12,
      products: [{ weightType: 'bf16', points }],
      attentionBytesPerSecond: 1,
      attentionFlopsPerSecond: 1,
      elementwiseBytesPerSecond: 1,
      launchMs: 0,
      passMs: 0,
    },
  });
  const texts = findings.map(({ topic, finding: text }) => `${topic}: ${text}`);
  expect(texts).toContain('arithmetic: products of matrices at best: bf16 797.0 TFLOP/s');
  expect(texts).toContain('link: 54.50 GB/s from page-locked memory to the GPU');
  expect(texts[0]).toContain('within the GPU');
});
