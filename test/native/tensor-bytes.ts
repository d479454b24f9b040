// Tensors in native memory seen from tests: making them at awkward offsets, reading and writing elements.

import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { NativeMemory } from '../../offload/port/native-io.js';
import { contiguousStrides, type Memory, type Tensor } from '../../offload/port/ops.js';
import { fromE4M3, fromE8M0, fromF16, toE4M3, toE8M0, toF16 } from './short-floats.js';

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

  /** The bytes of all tensors so far. */
  get used(): Uint8Array {
    return new Uint8Array(this.view.buffer, this.view.byteOffset, this.#usedBytes);
  }

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
    walk(tensor, (offset, index) => write(tensor.dtype, this.view, offset, value(index)));
    return tensor;
  }

  read(tensor: Tensor): Float64Array {
    return readElements(tensor, this.view);
  }

  free(): void {
    this.memory.free();
  }
}

/** In row-major order. */
export function readElements(tensor: Tensor, view: DataView): Float64Array {
  const values = new Float64Array(elementCount(tensor.shape));
  walk(tensor, (offset, index) => {
    values[index] = read(tensor.dtype, view, offset);
  });
  return values;
}

/** Where each element lies, row by row: making coordinates for every one took most of a test's time. */
function walk(
  { shape, strides, dtype, offsetBytes }: Tensor,
  visit: (offset: number, index: number) => void,
): void {
  const bytes = DTYPE_BYTES[dtype];
  const outer = shape.slice(0, -1);
  const inner = shape.at(-1) ?? 1;
  const at = outer.map(() => 0);
  const rows = elementCount(outer);
  for (let row = 0, index = 0; row < rows; row++) {
    let offset = offsetBytes + bytes * at.reduce((sum, place, d) => sum + place * (strides[d] ?? 0), 0);
    for (let i = 0; i < inner; i++, offset += bytes) visit(offset, index++);
    for (let d = at.length - 1; d >= 0; d--) {
      const next = (at[d] ?? 0) + 1;
      at[d] = next === outer[d] ? 0 : next;
      if (at[d] !== 0) break;
    }
  }
}

function read(dtype: DType, view: DataView, offset: number): number {
  switch (dtype) {
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
    case 'u8':
      return view.getUint8(offset);
    case 'i8':
      return view.getInt8(offset);
    case 'e4m3':
      return fromE4M3(view.getUint8(offset));
    case 'e8m0':
      return fromE8M0(view.getUint8(offset));
  }
}

export function write(dtype: DType, view: DataView, offset: number, value: number): void {
  switch (dtype) {
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
    case 'u8':
      view.setUint8(offset, value);
      break;
    case 'i8':
      view.setInt8(offset, value);
      break;
    case 'e4m3':
      view.setUint8(offset, toE4M3(value));
      break;
    case 'e8m0':
      view.setUint8(offset, toE8M0(value));
      break;
  }
}

const scratch = new DataView(new ArrayBuffer(4));
