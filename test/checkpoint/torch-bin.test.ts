// PyTorch .bin files: what torch.save writes is read in place; everything else is refused, and nothing is executed.

import { openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { type Checkpoint, openCheckpoint, type StoredTensor } from '../../src/checkpoint/checkpoint.js';
import { parseTorchFile } from '../../src/checkpoint/torch-bin.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { parseTorchBytes as parse, torchRefusal as refusalOf } from '../helpers/torch-refusal.js';
import {
  stateDictPickle,
  type TorchTensor,
  torchBin,
  torchFile,
  zipBytes,
} from '../helpers/write-torch-bin.js';

function bytesOf(checkpoint: Checkpoint, { fileIndex, fileOffset, sizeBytes }: StoredTensor): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  readSync(openSync(checkpoint.files[fileIndex] ?? '', 'r'), bytes, 0, sizeBytes, fileOffset);
  return bytes;
}

async function tensorsOf(model: string): Promise<TorchTensor[]> {
  const checkpoint = await openCheckpoint(modelFolder(model));
  return [...checkpoint.tensors.values()].map((tensor) => ({ ...tensor, data: bytesOf(checkpoint, tensor) }));
}

function folderOf(files: Readonly<Record<string, Uint8Array | string>>): string {
  const folder = tempFolder();
  for (const [name, content] of Object.entries({ 'config.json': '{}', ...files })) {
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

async function expectSame(checkpoint: Checkpoint, tensors: readonly TorchTensor[]): Promise<void> {
  expect([...checkpoint.tensors.keys()].sort()).toEqual(tensors.map(({ name }) => name).sort());
  for (const { name, dtype, shape, data = new Uint8Array() } of tensors) {
    const stored = checkpoint.find(name);
    expect(stored).toMatchObject({ dtype, shape, sizeBytes: data.byteLength });
    expect(stored && bytesOf(checkpoint, stored).equals(data)).toBe(true);
  }
}

const TWO: readonly TorchTensor[] = [
  { name: 'a', dtype: 'F16', shape: [2, 3], data: Buffer.from('abcdefghijkl') },
  { name: 'b', dtype: 'F32', shape: [1], data: Buffer.from('wxyz') },
];

describe('what torch.save writes', () => {
  test.each([
    ['gpt2', { protocol: 2 }],
    ['llama', { protocol: 2, zip64: false }],
    ['llama', { protocol: 4, wide: true }],
    ['bloom', { protocol: 5, comment: 'PK\x05\x06, a comment like an end', byteOrder: '' }],
  ])('%s with %o has the same bytes per tensor', async (model, options) => {
    const tensors = await tensorsOf(model);
    const checkpoint = await openCheckpoint(folderOf({ 'pytorch_model.bin': torchBin(tensors, options) }));
    await expectSame(checkpoint, tensors);
    for (const { fileOffset } of checkpoint.tensors.values()) expect(fileOffset % 64).toBe(0);
  });

  test('shards and their index', async () => {
    const tensors = await tensorsOf('llama3-rope');
    const shards = [0, 1, 2].map((i) => tensors.filter((_, at) => at % 3 === i));
    const name = (i: number) => `pytorch_model-0000${i + 1}-of-00003.bin`;
    const weightMap = Object.fromEntries(shards.flatMap((list, i) => list.map((t) => [t.name, name(i)])));
    const folder = folderOf({
      ...Object.fromEntries(shards.map((list, i) => [name(i), torchBin(list)])),
      'pytorch_model.bin.index.json': JSON.stringify({ metadata: {}, weight_map: weightMap }),
    });
    await expectSame(await openCheckpoint(folder), tensors);
  });

  test('tied tensors, views at an offset, parameters, scalars, empty tensors, sizes of 1 with any stride', async () => {
    const data = Buffer.from('0123456789abcdef');
    const { tensors } = await parse(
      torchBin([
        { name: 'whole', dtype: 'F32', shape: [2, 2], data },
        { name: 'tied', dtype: 'F32', shape: [2, 2], data, sharedWith: 'whole', parameter: true },
        {
          name: 'row',
          dtype: 'F32',
          shape: [1, 2],
          strides: [7, 1],
          offsetElements: 2,
          data,
          sharedWith: 'whole',
        },
        { name: 'scalar', dtype: 'I64', shape: [], data: Buffer.alloc(8) },
        { name: 'empty', dtype: 'F16', shape: [0, 4], strides: [9, 9] },
        { name: 'eight', dtype: 'F8_E4M3', shape: [4], data: Buffer.alloc(4), torchType: 'float8_e4m3fn' },
        { name: 'mask', dtype: 'BOOL', shape: [1, 1, 2, 2], data: Buffer.alloc(4) },
      ]),
    );
    const whole = tensors.get('whole');
    expect(tensors.get('tied')).toEqual({ ...whole, name: 'tied' });
    expect(tensors.get('row')?.fileOffset).toBe((whole?.fileOffset ?? 0) + 8);
    expect(tensors.get('scalar')).toMatchObject({ dtype: 'I64', shape: [], sizeBytes: 8 });
    expect(tensors.get('empty')?.sizeBytes).toBe(0);
    expect(tensors.get('eight')?.dtype).toBe('F8_E4M3');
    expect(tensors.get('mask')).toMatchObject({ dtype: 'BOOL', shape: [1, 1, 2, 2] });
  });

  test('offsets beyond 4 GiB', async () => {
    const startOffset = 5 * 1024 ** 3;
    const bytes = torchBin(TWO, { startOffset, wide: true });
    const { tensors } = await parseTorchFile({
      path: 'large.bin',
      sizeBytes: startOffset + bytes.length,
      read: async (offset, count) => {
        const part = Buffer.alloc(count);
        if (offset === 0) part.write('PK\x03\x04');
        else bytes.copy(part, Math.max(startOffset - offset, 0), Math.max(offset - startOffset, 0));
        return part;
      },
    });
    const offset = tensors.get('a')?.fileOffset ?? 0;
    expect(offset).toBeGreaterThan(startOffset);
    expect(bytes.subarray(offset - startOffset, offset - startOffset + 12).toString()).toBe('abcdefghijkl');
  });

  test('safetensors beside it win', async () => {
    const folder = folderOf({ 'pytorch_model.bin': 'not looked at' });
    writeSafetensors(join(folder, 'model.safetensors'), [{ name: 'a', dtype: 'F32', shape: [1] }]);
    expect((await openCheckpoint(folder)).files).toEqual([join(folder, 'model.safetensors')]);
  });

  test('a name that is special in JavaScript is a name like any other', async () => {
    const { tensors } = await parse(
      torchBin([{ name: '__proto__', dtype: 'U8', shape: [1], data: Buffer.alloc(1) }]),
    );
    expect([...tensors.keys()]).toEqual(['__proto__']);
  });
});

describe('tensors that cannot be read in place', () => {
  const one = (change: Partial<TorchTensor>): TorchTensor[] => [
    { name: 'w', dtype: 'F32', shape: [2, 3], data: Buffer.alloc(24), ...change },
  ];
  test.each<[string, TorchTensor[], RegExp]>([
    ['transposed', one({ strides: [1, 2] }), /strides \[1,2\] for shape \[2,3\].*contiguous.*"w"/],
    ['every other row', one({ strides: [6, 1] }), /strides/],
    ['expanded', one({ strides: [0, 1] }), /strides/],
    ['beyond its storage', one({ offsetElements: 1 }), /ends at element 7 of a storage of 6: tensor "w"/],
    ['larger than its storage', one({ shape: [3, 3] }), /ends at element 9/],
    ['of a size beyond 2^53', one({ shape: [2 ** 30, 2 ** 30] }), /beyond 2\^53 bytes/],
  ])('%s', async (_what, tensors, message) => {
    expect(await refusalOf(torchBin(tensors))).toMatch(message);
  });
});

describe('files that are no such zip file', () => {
  const good = torchBin(TWO);
  const pickle = stateDictPickle(TWO);
  const data = TWO.map((tensor) => tensor.data ?? new Uint8Array());
  const entry = (name: string, bytes: Uint8Array) => ({ name, data: bytes });
  const pickled = entry('a/data.pkl', pickle);
  const edited = (edit: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(good);
    edit(bytes);
    return bytes;
  };
  test.each<[string, Buffer, RegExp]>([
    ['empty', Buffer.alloc(0), /is no PyTorch file: it has 0 bytes/],
    [
      'legacy',
      Buffer.concat([Buffer.from([0x80, 2, 0x8a, 10]), Buffer.alloc(99)]),
      /before 1.6.*save it again/,
    ],
    ['a Git LFS pointer', Buffer.from('version https://'), /git lfs pull/],
    ['truncated', good.subarray(0, -30), /incomplete: copy or download/],
    ['bytes at the end', Buffer.concat([good, Buffer.from('x')]), /incomplete/],
    ['bytes in front', Buffer.concat([Buffer.from('PK\x03\x04'), good]), /zip64 end at byte/],
    ['big-endian', torchBin(TWO, { byteOrder: 'big' }), /byte order "big"/],
    ['no pickle', zipBytes([entry('a/x', pickle)]), /holds 0 files named data.pkl/],
    ['two pickles', zipBytes([pickled, entry('b/data.pkl', pickle)]), /holds 2 files named data.pkl/],
    ['a name twice', zipBytes([pickled, pickled]), /two zip entries "a\/data.pkl"/],
    ['a storage missing', zipBytes([pickled]), /lacks "a\/data\/0"/],
    [
      'a storage too short',
      torchFile(pickle, [Buffer.alloc(11), Buffer.alloc(4)]),
      /stores 11 bytes in data\/"0"/,
    ],
    ['a storage too long', torchFile(pickle, [Buffer.alloc(13), Buffer.alloc(4)]), /stores 13 bytes/],
    ['compressed', zipBytes([{ ...pickled, method: 8 }]), /compressed data \(method 8\)/],
    ['a wrong local header', edited((b) => b.write('XX', 0)), /is no PyTorch file/],
    ['a wrong local name', edited((b) => b.write('q', 30)), /names the data otherwise/],
    ['a split archive', edited((b) => b.writeUInt8(1, b.length - 18)), /split/],
    ['a wrong count', edited((b) => b.writeUInt8(9, b.length - 22 - 20 - 56 + 32)), /counts 9/],
  ])('%s', async (_what, bytes, message) => {
    expect(await refusalOf(bytes)).toMatch(message);
    expect(data).toHaveLength(2);
  });

  test('two entries in the same bytes', async () => {
    const bytes = torchFile(pickle, data);
    // The second storage's directory entry is pointed at the first one's header and given its name there.
    const first = bytes.lastIndexOf('pytorch_model/data/0') - 46;
    const second = bytes.lastIndexOf('pytorch_model/data/1') - 46;
    bytes.writeUInt32LE(bytes.readUInt32LE(first + 42), second + 42);
    expect(await refusalOf(bytes)).toMatch(/names the data otherwise/);
    // A storage that reaches into the next entry.
    const wide = torchFile(
      stateDictPickle([
        { ...(TWO[0] as TorchTensor), shape: [60], data: Buffer.alloc(120) },
        ...TWO.slice(1),
      ]),
      data,
    );
    const at = wide.lastIndexOf('pytorch_model/data/0') - 46;
    for (const offset of [20, 24]) wide.writeUInt32LE(120, at + offset);
    expect(await refusalOf(wide)).toMatch(/in the same bytes/);
  });

  test('every truncation and every changed byte is read or refused', async () => {
    for (let size = 0; size < good.length; size += 7) await refusalOf(good.subarray(0, size));
    const random = randomFrom(11);
    for (let at = 0; at < good.length; at++) {
      const bytes = edited((b) => b.writeUInt8(randomInt(random, 256), at));
      try {
        for (const { fileOffset, sizeBytes } of (await parse(bytes)).tensors.values()) {
          expect(fileOffset + sizeBytes).toBeLessThanOrEqual(bytes.length);
        }
      } catch (error) {
        if (!(error instanceof OperatingError)) throw error;
      }
    }
  });
});

test('an absent file and a folder', async () => {
  const folder = folderOf({});
  await expect(openCheckpoint(folder)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe('{}');
});
