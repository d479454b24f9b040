// Sums of all devices of a group, compared bit for bit with sums in f32 in the order of the ranks; for any kind of device.

import { expect } from 'vitest';
import { present } from '../../offload/errors.js';
import type { Backend, Device, HostMemory } from '../../offload/port/backend.js';
import { DTYPE_BYTES, type DType } from '../../offload/port/dtype.js';
import type { Exchange } from '../../offload/port/exchange.js';
import type { Memory } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';

type Float = Extract<DType, 'f32' | 'f16' | 'bf16'>;

export interface SumShape {
  readonly tokens: number;
  readonly width: number;
  readonly x: Float;
  readonly partial: Float;
  readonly accumulate: boolean;
  /** Bytes between rows beside the values; 0 by default. */
  readonly gap?: number;
}

/** Whole numbers of few bits and fractions that every type holds, whose sums round in f32 only with `wild`. */
function sample(seed: number, at: number, wild: boolean): number {
  const bits = Math.imul(seed * 7919 + at + 1, 0x9e3779b1) >>> 8;
  const small = ((bits % 511) - 255) / 16;
  return wild ? Math.fround(small * 2 ** ((bits >> 9) % 20) * 1.0000123) : small;
}

export interface Rank {
  readonly device: Device;
  readonly exchange: Exchange;
  readonly x: Memory;
  readonly partial: Memory;
  readonly host: HostMemory;
  readonly out: HostMemory;
}

export function ranksOf(backend: Backend, exchanges: readonly Exchange[], bytes: number): Rank[] {
  return backend.devices.map((device, rank) => ({
    device,
    exchange: present(exchanges[rank], 'an end'),
    x: device.allocate(bytes),
    partial: device.allocate(bytes),
    host: backend.allocateHost(2 * bytes, 'control'),
    out: backend.allocateHost(bytes, 'control'),
  }));
}

export function put(host: HostMemory, dtype: Float, at: number, value: number): void {
  const view = new DataView(host.bytes.buffer, host.bytes.byteOffset);
  if (dtype === 'f32') view.setFloat32(at, value, true);
  else view.setUint16(at, dtype === 'bf16' ? toBF16(value) : toF16(value), true);
}

export function get(host: HostMemory, dtype: Float, at: number): number {
  const view = new DataView(host.bytes.buffer, host.bytes.byteOffset);
  if (dtype === 'f32') return view.getFloat32(at, true);
  return dtype === 'bf16' ? fromBF16(view.getUint16(at, true)) : fromF16(view.getUint16(at, true));
}

/** Runs `shape` on all ranks, each with values of its own, and compares every bit. */
export async function checkSums(ranks: readonly Rank[], shape: SumShape, seed: number): Promise<void> {
  const { tokens, width, gap = 0 } = shape;
  const [xBytes, partialBytes] = [DTYPE_BYTES[shape.x], DTYPE_BYTES[shape.partial]];
  const [xStride, partialStride] = [width + gap / xBytes, width + gap / partialBytes];
  // Sums of wild ones are more than f16 holds.
  const wild = shape.x === 'f32' && shape.partial === 'f32';
  const half = present(ranks[0], 'a rank').out.sizeBytes;
  ranks.forEach(({ device, host, x, partial }, rank) => {
    host.bytes.fill(0);
    for (let t = 0; t < tokens; t++) {
      for (let i = 0; i < width; i++) {
        put(host, shape.x, (t * xStride + i) * xBytes, sample(seed, t * width + i, wild));
        const value = sample(seed + 1 + rank, t * width + i, wild);
        put(host, shape.partial, half + (t * partialStride + i) * partialBytes, value);
      }
    }
    device.compute.copy(x, 0, host, 0, half);
    device.compute.copy(partial, 0, host, half, half);
  });
  const view = (memory: Memory, dtype: Float, stride: number) => ({
    ...tensor(memory, 0, dtype, [tokens, width]),
    strides: [stride, 1],
  });
  for (const { device, exchange, x, partial, out } of ranks) {
    device.compute.launch({
      ...{ op: 'reduce', x: view(x, shape.x, xStride), partial: view(partial, shape.partial, partialStride) },
      ...{ exchange, accumulate: shape.accumulate },
    });
    device.compute.copy(out, 0, x, 0, half);
  }
  await Promise.all(ranks.map(({ device }) => device.compute.record().reached()));
  const expected = present(ranks[0], 'a rank').host;
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < width; i++) {
      const at = (t * xStride + i) * xBytes;
      const sum = ranks.reduce((total, { host }, rank) => {
        const value = get(host, shape.partial, half + (t * partialStride + i) * partialBytes);
        return rank === 0 ? value : Math.fround(total + value);
      }, 0);
      const result = shape.accumulate ? Math.fround(get(expected, shape.x, at) + sum) : sum;
      put(expected, shape.x, at, result);
    }
  }
  for (const { out, device } of ranks) {
    const at = out.bytes.findIndex((byte, index) => byte !== expected.bytes[index]);
    expect(at, `${device.name}, ${JSON.stringify(shape)}: byte ${at}`).toBe(-1);
  }
}

/** Odd sizes, gaps, both types, several rounds. */
export const SUM_SHAPES: readonly SumShape[] = [
  { tokens: 1, width: 1, x: 'f32', partial: 'f32', accumulate: true },
  { tokens: 1, width: 64, x: 'f32', partial: 'f32', accumulate: true },
  { tokens: 3, width: 37, x: 'f32', partial: 'f32', accumulate: false },
  { tokens: 5, width: 40, x: 'f32', partial: 'bf16', accumulate: true, gap: 32 },
  { tokens: 2, width: 33, x: 'f32', partial: 'f16', accumulate: true },
  { tokens: 7, width: 24, x: 'bf16', partial: 'bf16', accumulate: true },
  { tokens: 4, width: 19, x: 'f16', partial: 'f16', accumulate: false, gap: 4 },
  { tokens: 6, width: 16, x: 'f16', partial: 'f32', accumulate: true },
];

function roundTo(value: number, toBits: (bits: number) => number): number {
  return toBits(new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0);
}
function toBF16(value: number): number {
  return roundTo(value, (bits) => ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff);
}
function fromBF16(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? 0;
}
/** Normal numbers of the type, and 0. */
function toF16(value: number): number {
  return roundTo(value, (bits) => {
    const rounded = bits + 0xfff + ((bits >>> 13) & 1);
    const sign = (bits >>> 16) & 0x8000;
    return (bits & 0x7fffffff) === 0 ? sign : sign | (((rounded & 0x7fffffff) - 0x38000000) >>> 13);
  });
}
function fromF16(half: number): number {
  const rest = half & 0x7fff;
  const bits = rest === 0 ? 0 : (rest << 13) + 0x38000000;
  return new Float32Array(Uint32Array.of((((half & 0x8000) << 16) | bits) >>> 0).buffer)[0] ?? 0;
}
