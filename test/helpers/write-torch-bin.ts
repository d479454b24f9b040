// Writes what torch.save writes: a pickle that describes tensors, in a zip file whose entries are aligned and stored.

import { crc32 } from 'node:zlib';
import type { TestTensor } from './safetensors.js';

/** As safetensors spells types, to the class names that PyTorch pickles. */
const STORAGE_CLASSES: Readonly<Record<string, string>> = {
  F64: 'DoubleStorage',
  F32: 'FloatStorage',
  F16: 'HalfStorage',
  BF16: 'BFloat16Storage',
  I64: 'LongStorage',
  I32: 'IntStorage',
  U8: 'ByteStorage',
  BOOL: 'BoolStorage',
};
const ELEMENT_BYTES: Readonly<Record<string, number>> = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2 };

export interface TorchTensor extends TestTensor {
  /** The tensor is a view of this one's storage. */
  readonly sharedWith?: string;
  readonly offsetElements?: number;
  readonly strides?: readonly number[];
  /** Wrapped as `torch.nn.Parameter`. */
  readonly parameter?: boolean;
  /** Types that have no storage class are written with `_rebuild_tensor_v3`, which names them. */
  readonly torchType?: string;
}

/** Opcodes one after another; `text` and `int` choose the shortest encoding, as Python's pickler does. */
export class PickleWriter {
  readonly #parts: Buffer[] = [];
  #memoSize = 0;

  constructor(private readonly protocol = 2) {
    this.op(0x80, protocol);
    // The pickler's frame covers what follows; readers may ignore its length.
    if (protocol >= 4) this.op(0x95, 0, 0, 0, 0, 0, 0, 0, 0);
  }

  op(...bytes: readonly number[]): this {
    this.#parts.push(Buffer.from(bytes));
    return this;
  }

  raw(text: string): this {
    this.#parts.push(Buffer.from(text, 'latin1'));
    return this;
  }

  text(value: string): this {
    const bytes = Buffer.from(value);
    if (this.protocol >= 4 && bytes.length < 256) this.op(0x8c, bytes.length);
    else this.op(0x58, ...uint(bytes.length, 4));
    this.#parts.push(bytes);
    return this.put();
  }

  int(value: number): this {
    if (value >= 0 && value < 256) return this.op(0x4b, value);
    if (value >= 0 && value < 65_536) return this.op(0x4d, ...uint(value, 2));
    if (value >= -(2 ** 31) && value < 2 ** 31) return this.op(0x4a, ...uint(value >>> 0, 4));
    return this.op(0x8a, 7, ...uint(value, 7));
  }

  ints(values: readonly number[]): this {
    if (values.length === 0) return this.op(0x29);
    if (values.length > 3) this.op(0x28);
    for (const value of values) this.int(value);
    return this.op(values.length > 3 ? 0x74 : 0x84 + values.length).put();
  }

  global(module: string, name: string): this {
    if (this.protocol < 4) return this.raw(`c${module}\n${name}\n`).put();
    return this.text(module).text(name).op(0x93).put();
  }

  put(): this {
    const index = this.#memoSize++;
    if (this.protocol >= 4) return this.op(0x94);
    return index < 256 ? this.op(0x71, index) : this.op(0x72, ...uint(index, 4));
  }

  /** `OrderedDict()` */
  orderedDict(): this {
    return this.global('collections', 'OrderedDict').op(0x29, 0x52).put();
  }

  end(): Buffer {
    return Buffer.concat([...this.#parts, Buffer.from([0x2e])]);
  }
}

function uint(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) % 256);
}

/** The pickle of an OrderedDict of these tensors, with the `_metadata` that modules add. */
export function stateDictPickle(tensors: readonly TorchTensor[], protocol = 2): Buffer {
  const pickle = new PickleWriter(protocol).orderedDict().op(0x28);
  const keys = storageKeys(tensors);
  for (const tensor of tensors) {
    pickle.text(tensor.name);
    if (tensor.parameter) pickle.global('torch._utils', '_rebuild_parameter').op(0x28);
    writeTensor(pickle, tensor, keys.get(tensor.name) ?? '');
    if (tensor.parameter) pickle.op(0x88).orderedDict().op(0x74).put().op(0x52).put();
  }
  pickle.op(0x75); // SETITEMS
  pickle.op(0x7d).put().text('_metadata').orderedDict().text('').op(0x7d).put().text('version').int(1);
  return pickle.op(0x73, 0x73, 0x73, 0x62).end(); // three times SETITEM, then BUILD
}

function writeTensor(pickle: PickleWriter, tensor: TorchTensor, key: string): void {
  const { dtype, shape, torchType } = tensor;
  const elements = (tensor.data?.byteLength ?? 0) / (ELEMENT_BYTES[dtype] ?? 1);
  pickle.global('torch._utils', torchType ? '_rebuild_tensor_v3' : '_rebuild_tensor_v2').op(0x28, 0x28);
  pickle.text('storage');
  if (torchType) pickle.global('torch.storage', 'UntypedStorage');
  else pickle.global('torch', STORAGE_CLASSES[dtype] ?? 'ByteStorage');
  pickle.text(key).text('cpu').int(elements).op(0x74).put().op(0x51); // TUPLE, BINPERSID
  pickle
    .int(tensor.offsetElements ?? 0)
    .ints(shape)
    .ints(tensor.strides ?? rowMajor(shape));
  pickle.op(0x89).orderedDict();
  if (torchType) pickle.global('torch', torchType);
  pickle.op(0x74).put().op(0x52).put();
}

function rowMajor(shape: readonly number[]): number[] {
  return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
}

function storageKeys(tensors: readonly TorchTensor[]): ReadonlyMap<string, string> {
  const keys = new Map<string, string>();
  for (const { name, sharedWith } of tensors) {
    keys.set(name, (sharedWith && keys.get(sharedWith)) || String(new Set(keys.values()).size));
  }
  return keys;
}

export interface ZipFile {
  readonly name: string;
  readonly data: Uint8Array;
  readonly method?: number;
  /** Sizes and offsets in the directory stand in its zip64 part. */
  readonly wide?: boolean;
}

export interface ZipOptions {
  /** torch.save always adds zip64 end records. */
  readonly zip64?: boolean;
  readonly comment?: string;
  /** Offsets as if that many bytes preceded. */
  readonly startOffset?: number;
}

/** Sizes follow the data in a descriptor and the local header holds zeros, as in PyTorch's files. */
export function zipBytes(files: readonly ZipFile[], options: ZipOptions = {}): Buffer {
  const { zip64 = true, comment = '', startOffset = 0 } = options;
  const parts: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = startOffset;
  const add = (list: Buffer[], bytes: Buffer) => {
    list.push(bytes);
    offset += list === parts ? bytes.length : 0;
  };
  for (const { name, data, method = 0, wide = false } of files) {
    const nameBytes = Buffer.from(name);
    const headerOffset = offset;
    const padding = (64 - ((offset + 30 + nameBytes.length + 4) % 64)) % 64;
    const version = [...uint(0, 2), ...uint(0x0808, 2), ...uint(method, 2), ...uint(0, 4)];
    const lengths = [...uint(nameBytes.length, 2), ...uint(4 + padding, 2)];
    add(parts, Buffer.from([0x50, 0x4b, 3, 4, ...version, ...uint(0, 12), ...lengths]));
    add(parts, nameBytes);
    add(parts, Buffer.from([0x46, 0x42, ...uint(padding, 2), ...Array<number>(padding).fill(0x5a)]));
    add(parts, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    const sum = uint(crc32(data), 4);
    const sizes = [...uint(data.byteLength, 4), ...uint(data.byteLength, 4)];
    add(parts, Buffer.from([0x50, 0x4b, 7, 8, ...sum, ...sizes]));
    const full = Array<number>(4).fill(255);
    const numbers = [data.byteLength, data.byteLength, headerOffset];
    const extra = wide ? [1, 0, 24, 0, ...numbers.flatMap((value) => uint(value, 8))] : [];
    add(central, Buffer.from([0x50, 0x4b, 1, 2, 0, 0, ...version, ...sum]));
    add(central, Buffer.from(wide ? [...full, ...full] : sizes));
    add(central, Buffer.from([...uint(nameBytes.length, 2), ...uint(extra.length, 2), ...uint(0, 10)]));
    add(central, Buffer.from(wide ? full : uint(headerOffset, 4)));
    add(central, Buffer.concat([nameBytes, Buffer.from(extra)]));
  }
  const directory = Buffer.concat(central);
  const counts = (bytes: number) => [...uint(files.length, bytes), ...uint(files.length, bytes)];
  const end64 = [
    ...[0x50, 0x4b, 6, 6, ...uint(44, 8), ...uint(0x031e, 2), ...uint(45, 2), ...uint(0, 8), ...counts(8)],
    ...[...uint(directory.length, 8), ...uint(offset, 8)],
    ...[0x50, 0x4b, 6, 7, ...uint(0, 4), ...uint(offset + directory.length, 8), ...uint(1, 4)],
  ];
  const place = [...uint(directory.length, 4), ...uint(offset, 4), ...uint(comment.length, 2)];
  const end = [0x50, 0x4b, 5, 6, ...uint(0, 4), ...counts(2), ...place];
  return Buffer.concat([
    ...parts,
    directory,
    Buffer.from(zip64 ? [...end64, ...end] : end),
    Buffer.from(comment),
  ]);
}

/** A whole file around a pickle: `pickle` and `storages` as `data.pkl` and `data/0`, `data/1`… */
export function torchFile(
  pickle: Uint8Array,
  storages: readonly Uint8Array[],
  options: ZipOptions & { readonly byteOrder?: string; readonly wide?: boolean } = {},
): Buffer {
  const { byteOrder = 'little', wide = false } = options;
  const file = (name: string, data: Uint8Array): ZipFile => ({ name: `pytorch_model/${name}`, data, wide });
  return zipBytes(
    [
      file('data.pkl', pickle),
      ...(byteOrder === '' ? [] : [file('byteorder', Buffer.from(byteOrder))]),
      ...storages.map((data, i) => file(`data/${i}`, data)),
      file('version', Buffer.from('3\n')),
      file('.data/serialization_id', Buffer.from('0'.repeat(40))),
    ],
    options,
  );
}

/** The bytes of `torch.save(OrderedDict(tensors), …)`. */
export function torchBin(
  tensors: readonly TorchTensor[],
  options: ZipOptions & {
    readonly protocol?: number;
    readonly byteOrder?: string;
    readonly wide?: boolean;
  } = {},
): Buffer {
  const storages = tensors
    .filter(({ sharedWith }) => !sharedWith)
    .map(({ data }) => data ?? new Uint8Array());
  return torchFile(stateDictPickle(tensors, options.protocol), storages, options);
}
