// A packed store as its format's publishers describe it, read back by arithmetic alone.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromE4M3, fromF16, toEven } from '../native/short-floats.js';
import { type TestTensor, writeSafetensors } from './safetensors.js';

export interface StoredBytes {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Buffer;
  readonly file: string;
  /** From the start of the file. */
  readonly fileOffset: number;
}

export interface ReadStore {
  readonly tensors: ReadonlyMap<string, StoredBytes>;
  readonly metadata: ReadonlyMap<string, Readonly<Record<string, string>>>;
}

interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** Every tensor of every safetensors file in the folder. */
export function readStore(folder: string): ReadStore {
  const tensors = new Map<string, StoredBytes>();
  const metadata = new Map<string, Readonly<Record<string, string>>>();
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
    const content = readFileSync(join(folder, file));
    const start = 8 + Number(content.readBigUInt64LE());
    const { __metadata__, ...entries } = JSON.parse(content.toString('utf8', 8, start)) as Record<
      string,
      never
    >;
    metadata.set(file, __metadata__ ?? {});
    for (const [name, { dtype, shape, data_offsets }] of Object.entries<HeaderEntry>(entries)) {
      const [first, end] = data_offsets.map((offset) => start + offset) as [number, number];
      tensors.set(name, { dtype, shape, bytes: content.subarray(first, end), file, fileOffset: first });
    }
  }
  return { tensors, metadata };
}

/** Fraction bits and least exponent of each float type. */
const FLOATS = { F32: [23, -126], F16: [10, -14], BF16: [7, -126] } as const;
type FloatName = keyof typeof FLOATS;

/** To nearest, ties to even. */
export function roundFloat(dtype: string, value: number): number {
  if (value === 0) return value;
  const [bits, least] = FLOATS[dtype as FloatName];
  const step = powerOfTwo(Math.max(least, exponentOf(value)) - bits);
  return toEven(value / step) * step;
}

const word = new DataView(new ArrayBuffer(8));

/** The exponent of the largest power of two that is no larger: a field of the f64, where `value` is a normal one. */
function exponentOf(value: number): number {
  word.setFloat64(0, value);
  return ((word.getUint16(0) >> 4) & 0x7ff) - 1023;
}

/** Within what a normal f64 reaches. */
function powerOfTwo(exponent: number): number {
  word.setUint32(0, (exponent + 1023) << 20);
  word.setUint32(4, 0);
  return word.getFloat64(0);
}

export function readFloat(dtype: string, bytes: Buffer, index: number): number {
  switch (dtype) {
    case 'F32':
      return bytes.readFloatLE(4 * index);
    case 'F16':
      return fromF16(bytes.readUInt16LE(2 * index));
    case 'BF16': {
      word.setUint32(0, bytes.readUInt16LE(2 * index) << 16);
      return word.getFloat32(0);
    }
    default:
      throw new Error(`${dtype} is no float type`);
  }
}

/** @param value one that the type has */
export function writeFloat(dtype: string, bytes: Buffer, index: number, value: number): void {
  if (dtype === 'F32') {
    bytes.writeFloatLE(value, 4 * index);
  } else if (dtype === 'BF16') {
    word.setFloat32(0, value);
    bytes.writeUInt16LE(word.getUint16(0), 2 * index);
  } else {
    const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
    const size = Math.abs(value);
    const exponent = Math.max(-14, exponentOf(size));
    const steps = size / powerOfTwo(exponent - 10);
    bytes.writeUInt16LE(sign | (size === 0 ? 0 : (exponent + 14) * 1024 + steps), 2 * index);
  }
}

export interface Decoded {
  readonly rows: number;
  readonly inputs: number;
  /** Row by row, rounded to the type of the source. */
  readonly values: Float64Array;
  readonly codes: Float64Array;
  readonly scaleOf: (row: number, input: number) => number;
}

/** @param dtype of the source */
export function decodeModule({ tensors }: ReadStore, module: string, dtype: string): Decoded {
  const scale = need(tensors, `${module}.weight_scale`);
  const packed = tensors.get(`${module}.weight_packed`);
  const codes = packed ?? need(tensors, `${module}.weight`);
  const size = tensors.get(`${module}.weight_shape`);
  const [rows = 0, inputs = 0] = size
    ? [0, 1].map((i) => Number(size.bytes.readBigInt64LE(8 * i)))
    : codes.shape;
  const groups = scale.shape[1] ?? 0;
  const group = Math.ceil(inputs / groups);
  const codeAt = (row: number, input: number): number => {
    if (codes.dtype === 'F8_E4M3') return fromE4M3(codes.bytes.readUInt8(row * inputs + input));
    const words = codes.shape[1] ?? 0;
    const bits = words * 32 >= inputs * 8 ? 8 : 4;
    const first = row * words * 32 + input * bits;
    const byte = codes.bytes.readUInt8(first >> 3);
    return bits === 8 ? byte - 128 : ((byte >> (first & 7)) & 15) - 8;
  };
  const scaleOf = (row: number, input: number) =>
    readFloat(scale.dtype, scale.bytes, row * groups + Math.floor(input / group));
  const decoded = {
    rows,
    inputs,
    values: new Float64Array(rows * inputs),
    codes: new Float64Array(rows * inputs),
  };
  for (let row = 0; row < rows; row++) {
    for (let input = 0; input < inputs; input++) {
      const code = codeAt(row, input);
      decoded.codes[row * inputs + input] = code;
      const product = roundFloat(scale.dtype, code * scaleOf(row, input));
      decoded.values[row * inputs + input] = roundFloat(dtype, product);
    }
  }
  return { ...decoded, scaleOf };
}

function need(tensors: ReadStore['tensors'], name: string): StoredBytes {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`the store has no ${name}`);
  return tensor;
}

/** The store as a checkpoint of float weights in `to`: what a reader of packed weights must make of it. */
export function writeDecoded(store: ReadStore, to: string, dtype: string): void {
  const tensors: TestTensor[] = [];
  for (const [name, { dtype: stored, shape, bytes }] of store.tensors) {
    const [, module] = /^(.*)\.weight_scale$/.exec(name) ?? [];
    if (module !== undefined) {
      const { rows, inputs, values } = decodeModule(store, module, dtype);
      const data = Buffer.alloc(values.length * (dtype === 'F32' ? 4 : 2));
      values.forEach((value, index) => {
        writeFloat(dtype, data, index, value);
      });
      tensors.push({ name: `${module}.weight`, dtype, shape: [rows, inputs], data });
    } else if (FLOATS[stored as FloatName]) {
      tensors.push({ name, dtype: stored, shape, data: bytes });
    }
  }
  writeSafetensors(join(to, 'model.safetensors'), tensors);
}
