// Tensors in native memory seen from tests: making them at awkward offsets, reading and writing elements.

import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { NativeMemory } from '../../offload/port/native-io.js';
import { contiguousStrides, type Memory, type Tensor } from '../../offload/port/ops.js';

/** The bytes of a memory. */
export type Bytes = (memory: Memory) => DataView;

/** One native block, handed out piece by piece. */
export class TestMemory {
  readonly memory: NativeMemory;
  readonly view: DataView;
  #usedBytes = 0;

  constructor(sizeBytes: number) {
    this.memory = new (native().NativeMemory)(sizeBytes, false);
    this.view = new DataView(this.memory.view(0, sizeBytes));
  }

  readonly bytes: Bytes = () => this.view;

  /** `misalignBytes` after a multiple of 64; rows `paddingElements` longer than the innermost dimension. */
  tensor(dtype: DType, shape: readonly number[], misalignBytes = 0, paddingElements = 0): Tensor {
    const stored = [...shape];
    const inner = stored.pop() ?? 1;
    const strides = contiguousStrides([...stored, inner + paddingElements]);
    const offsetBytes = Math.ceil(this.#usedBytes / 64) * 64 + misalignBytes;
    const rows = elementCount(stored);
    // The last row has no padding: reading beyond it would leave the block when it ends there.
    const elements = Math.max(0, rows * (inner + paddingElements) - paddingElements);
    this.#usedBytes = offsetBytes + elements * DTYPE_BYTES[dtype];
    if (this.#usedBytes > this.memory.sizeBytes) throw new Error('the test needs more memory');
    return { memory: this.memory, offsetBytes, dtype, shape, strides };
  }

  fill(tensor: Tensor, value: (index: number) => number): Tensor {
    const count = elementCount(tensor.shape);
    for (let i = 0; i < count; i++) writeElement(tensor, this.view, coordinates(tensor, i), value(i));
    return tensor;
  }

  read(tensor: Tensor): Float64Array {
    return Float64Array.from({ length: elementCount(tensor.shape) }, (_, i) =>
      readElement(tensor, this.view, coordinates(tensor, i)),
    );
  }

  free(): void {
    this.memory.free();
  }
}

function coordinates(tensor: Tensor, flat: number): number[] {
  const at: number[] = [];
  for (let d = tensor.shape.length - 1; d >= 0; d--) {
    const size = tensor.shape[d] ?? 1;
    at.unshift(flat % size);
    flat = Math.floor(flat / size);
  }
  return at;
}

function byteOffset(tensor: Tensor, at: readonly number[]): number {
  const element = at.reduce((sum, index, d) => sum + index * (tensor.strides[d] ?? 0), 0);
  return tensor.offsetBytes + element * DTYPE_BYTES[tensor.dtype];
}

export function readElement(tensor: Tensor, view: DataView, at: readonly number[]): number {
  const offset = byteOffset(tensor, at);
  switch (tensor.dtype) {
    case 'f32':
      return view.getFloat32(offset, true);
    case 'i32':
      return view.getInt32(offset, true);
    case 'f16':
      return fromF16(view.getUint16(offset, true));
    case 'bf16': {
      scratch.setUint32(0, view.getUint16(offset, true) << 16, true);
      return scratch.getFloat32(0, true);
    }
  }
}

export function writeElement(tensor: Tensor, view: DataView, at: readonly number[], value: number): void {
  const offset = byteOffset(tensor, at);
  switch (tensor.dtype) {
    case 'f32':
      view.setFloat32(offset, value, true);
      break;
    case 'i32':
      view.setInt32(offset, value, true);
      break;
    case 'f16':
      view.setUint16(offset, toF16(value), true);
      break;
    case 'bf16': {
      scratch.setFloat32(0, value, true);
      view.setUint16(offset, scratch.getUint32(0, true) >>> 16, true);
      break;
    }
  }
}

const scratch = new DataView(new ArrayBuffer(4));

function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** Truncates, which is enough for making test values; denormals included, overflow to infinity. */
function toF16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65536) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | Math.floor(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  return sign | ((exponent + 15) << 10) | Math.floor((magnitude / 2 ** exponent - 1) * 1024);
}
