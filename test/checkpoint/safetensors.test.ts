// The safetensors reader: one clear error per way a file can be wrong, and nothing but those errors for any bytes.

import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { parseSafetensorsHeader, readSafetensorsHeader } from '../../src/checkpoint/safetensors.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { headerOf, safetensorsBytes, writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';

const folder = tempFolder();

async function failureOf(bytes: Uint8Array): Promise<string> {
  const path = join(folder, 'bad.safetensors');
  writeFileSync(path, bytes);
  const error: unknown = await readSafetensorsHeader(path).catch((thrown: unknown) => thrown);
  if (!(error instanceof OperatingError))
    throw new Error(`expected an operating error, got ${String(error)}`);
  expect(error.code).toBe('BAD_SAFETENSORS');
  expect(error.message).toContain(path);
  expect(error.message).not.toContain('\n');
  return error.message.slice(path.length + 1);
}

/** One tensor 'w' of two f32, with parts of its entry replaced. */
function entry(change: Record<string, unknown>): string {
  return JSON.stringify({ w: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...change } });
}

test('reads names, types, shapes and absolute offsets', async () => {
  const path = join(folder, 'good.safetensors');
  writeSafetensors(path, [
    { name: 'a', dtype: 'F32', shape: [2, 3] },
    { name: 'scalar', dtype: 'BF16', shape: [] },
    { name: 'empty', dtype: 'F16', shape: [0, 7] },
    { name: 'mask', dtype: 'BOOL', shape: [3] },
    { name: 'ids', dtype: 'I64', shape: [1] },
    { name: 'packed', dtype: 'F4', shape: [4] },
    { name: '__proto__', dtype: 'U8', shape: [1] },
  ]);
  const header = await readSafetensorsHeader(path);
  const at = (offset: number) => header.dataOffset + offset;
  expect(header.metadata).toEqual({ format: 'pt' });
  expect(header.dataOffset % 8).toBe(0);
  expect(
    [...header.tensors.values()].map((t) => [t.name, t.dtype, t.shape, t.fileOffset, t.sizeBytes]),
  ).toEqual([
    ['a', 'F32', [2, 3], at(0), 24],
    ['scalar', 'BF16', [], at(24), 2],
    ['empty', 'F16', [0, 7], at(26), 0],
    ['mask', 'BOOL', [3], at(26), 3],
    ['ids', 'I64', [1], at(29), 8],
    ['packed', 'F4', [4], at(37), 2],
    ['__proto__', 'U8', [1], at(39), 1],
  ]);
  expect(header.sizeBytes).toBe(at(40));
});

test('reads a header without tensors, and offsets in any order', async () => {
  const path = join(folder, 'order.safetensors');
  writeFileSync(path, safetensorsBytes('{}', 0));
  expect((await readSafetensorsHeader(path)).tensors.size).toBe(0);
  const swapped = {
    late: { dtype: 'U8', shape: [3], data_offsets: [4, 7] },
    early: { dtype: 'F32', shape: [1], data_offsets: [0, 4] },
  };
  writeFileSync(path, safetensorsBytes(JSON.stringify(swapped), 7));
  const header = await readSafetensorsHeader(path);
  expect(header.tensors.get('late')?.fileOffset).toBe(header.dataOffset + 4);
});

test('accepts sizes beyond 2^32', () => {
  const bytes = Buffer.from(
    JSON.stringify(headerOf([{ name: 'big', dtype: 'F16', shape: [250_880, 14_336] }])),
  );
  const header = parseSafetensorsHeader(bytes, 'big', 8 + bytes.byteLength + 250_880 * 14_336 * 2);
  expect(header.tensors.get('big')?.sizeBytes).toBe(7_193_231_360);
});

test('reads every fixture', async () => {
  const header = await readSafetensorsHeader(join(modelFolder('bloom'), 'model.safetensors'));
  expect(header.tensors.get('transformer.word_embeddings.weight')?.shape).toEqual([384, 64]);
});

test('an absent file, and a folder', async () => {
  await expect(readSafetensorsHeader(join(folder, 'absent'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(readSafetensorsHeader(folder)).rejects.toMatchObject({ code: 'BAD_SAFETENSORS' });
});

const long = (length: bigint) => {
  const field = Buffer.alloc(8);
  field.writeBigUInt64LE(length);
  return field;
};

const WRONG: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ['empty file', Buffer.alloc(0), /has 0 bytes, fewer than the 8/],
  ['half a length', Buffer.alloc(7), /has 7 bytes/],
  ['header of 0 bytes', long(0n), /header of 0 bytes/],
  ['header above the limit', long(100_000_001n), /100000001 bytes, above the format's limit of 100000000/],
  ['header length with all bits set', long(2n ** 64n - 1n), /18446744073709551615 bytes, above/],
  ['header beyond the file', long(100n), /truncated: its header ends at byte 108, the file has 8 bytes/],
  [
    'Git LFS pointer',
    Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
    /git lfs pull/,
  ],
  ['not UTF-8', safetensorsBytes(Buffer.from([0x7b, 0xff, 0x7d]), 0), /not UTF-8/],
  ['not at a brace', safetensorsBytes(' {}', 0), /begins with " " instead of '{'/],
  ['byte order mark', safetensorsBytes('\ufeff{}', 0), /begins with/],
  ['a list', safetensorsBytes('[]', 0), /begins with "\["/],
  ['not JSON', safetensorsBytes('{"a":', 0), /not JSON/],
  ['entry no object', safetensorsBytes('{"w":1}', 0), /describes "w" by something that is not an object/],
  ['entry a list', safetensorsBytes('{"w":[]}', 0), /describes "w" by/],
  ['metadata no object', safetensorsBytes('{"__metadata__":"x"}', 0), /describes "__metadata__" by/],
  [
    'metadata not strings',
    safetensorsBytes('{"__metadata__":{"a":1}}', 0),
    /metadata "a" that is not a string/,
  ],
  ['no dtype', safetensorsBytes(entry({ dtype: undefined }), 8), /gives tensor "w" no dtype/],
  ['unknown dtype', safetensorsBytes(entry({ dtype: 'F31' }), 8), /unknown dtype "F31"/],
  ['inherited dtype', safetensorsBytes(entry({ dtype: 'constructor' }), 8), /unknown dtype "constructor"/],
  ['no shape', safetensorsBytes(entry({ shape: undefined }), 8), /the shape nothing/],
  ['negative size', safetensorsBytes(entry({ shape: [-2] }), 8), /the shape \[-2\]: sizes are whole numbers/],
  ['fractional size', safetensorsBytes(entry({ shape: [1.5] }), 8), /the shape \[1.5\]/],
  ['unsafe size', safetensorsBytes(entry({ shape: [2 ** 53] }), 8), /the shape \[9007199254740992\]/],
  [
    'product beyond 2^53',
    safetensorsBytes(entry({ shape: [2 ** 40, 2 ** 40] }), 8),
    /no whole number of bytes/,
  ],
  ['half a byte', safetensorsBytes(entry({ dtype: 'F4', shape: [1] }), 8), /no whole number of bytes/],
  ['no offsets', safetensorsBytes(entry({ data_offsets: undefined }), 8), /data_offsets nothing instead of/],
  ['one offset', safetensorsBytes(entry({ data_offsets: [0] }), 8), /data_offsets \[0\] instead of/],
  ['three offsets', safetensorsBytes(entry({ data_offsets: [0, 8, 8] }), 8), /instead of \[begin, end\]/],
  ['negative offset', safetensorsBytes(entry({ data_offsets: [-8, 0] }), 8), /instead of \[begin, end\]/],
  ['offsets reversed', safetensorsBytes(entry({ data_offsets: [8, 0] }), 8), /end before they begin/],
  [
    'size and shape differ',
    safetensorsBytes(entry({ shape: [3] }), 8),
    /stores 8 bytes for .* F32 \[3\] needs 12/,
  ],
  ['truncated data', safetensorsBytes(entry({}), 5), /truncated: its tensors need 70 bytes, it has 67/],
  ['bytes after the end', safetensorsBytes(entry({}), 9), /1 bytes after its last tensor/],
  [
    'a hole at the start',
    safetensorsBytes(entry({ data_offsets: [4, 12] }), 12),
    /4 bytes before "w" that are no/,
  ],
  [
    'a hole between',
    safetensorsBytes(
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}',
      4,
    ),
    /2 bytes before "b"/,
  ],
  [
    'overlap',
    safetensorsBytes(
      '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
      4,
    ),
    /stores 1 bytes of tensor "b" in another one/,
  ],
  [
    'the same name twice',
    safetensorsBytes(
      `{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0077":${entry({}).slice(5)}`,
      8,
    ),
    /names "w" twice/,
  ],
];

test.each(WRONG)('refuses: %s', async (_what, bytes, message) => {
  expect(await failureOf(bytes)).toMatch(message);
});

test('messages stay short and on one line, whatever the file says', async () => {
  const name = `${'x\n'.repeat(5000)}`;
  expect((await failureOf(safetensorsBytes(JSON.stringify({ [name]: 1 }), 0))).length).toBeLessThan(500);
  expect((await failureOf(safetensorsBytes(entry({ shape: Array(1000).fill(0.5) }), 0))).length).toBeLessThan(
    500,
  );
});

test('deep nesting is refused, not a stack overflow', async () => {
  expect(await failureOf(safetensorsBytes(`{"a":${'['.repeat(1_000_000)}`, 0))).toMatch(/not JSON/);
  expect(
    await failureOf(safetensorsBytes(`{"a":{"dtype":${'['.repeat(1e5)}${']'.repeat(1e5)}}}`, 0)),
  ).toMatch(/dtype/);
});

test('a file truncated at any byte is refused', async () => {
  const path = join(folder, 'cut.safetensors');
  writeSafetensors(path, [{ name: 'w', dtype: 'F32', shape: [16] }]);
  const { sizeBytes } = await readSafetensorsHeader(path);
  for (let bytes = sizeBytes - 1; bytes >= 0; bytes--) {
    truncateSync(path, bytes);
    await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'BAD_SAFETENSORS' });
  }
});

test('fuzz: any header either describes the whole file or gives an operating error', () => {
  const random = randomFrom(20_261_121);
  const seeds = [
    JSON.stringify({ __metadata__: { format: 'pt' }, ...headerOf(someTensors) }),
    entry({}),
    entry({ dtype: 'BF16', shape: [4] }),
  ].map((text) => Buffer.from(text));
  let accepted = 0;
  for (let round = 0; round < 20_000; round++) {
    const bytes = mutate(seeds[randomInt(random, seeds.length)] ?? Buffer.alloc(0), random);
    const dataBytes = randomInt(random, 2) === 0 ? 8 : randomInt(random, 400);
    try {
      const header = parseSafetensorsHeader(bytes, 'fuzz', 8 + bytes.byteLength + dataBytes);
      let sum = 0;
      for (const tensor of header.tensors.values()) sum += tensor.sizeBytes;
      expect(sum).toBe(dataBytes);
      accepted++;
    } catch (error) {
      if (!(error instanceof OperatingError))
        throw new Error(`round ${round}: ${bytes.toString()}`, { cause: error });
    }
  }
  expect(accepted).toBeGreaterThan(100);
});

const someTensors = [
  { name: 'a', dtype: 'F16', shape: [4, 8] },
  { name: 'b.weight', dtype: 'F32', shape: [2, 2, 2] },
  { name: 'c', dtype: 'I64', shape: [] },
];

/** Words that matter to the parser; inserting them reaches further than random bytes do. */
const WORDS = [
  '{',
  '}',
  '[',
  ']',
  '"',
  ',',
  ':',
  '0',
  '-1',
  '1e400',
  '9007199254740993',
  'null',
  '"a"',
  '\\',
  '\\u0000',
];

function mutate(seed: Buffer, random: () => number): Buffer {
  let bytes = Buffer.from(seed);
  for (let count = randomInt(random, 4); count > 0; count--) {
    const at = randomInt(random, bytes.length);
    const kind = randomInt(random, 4);
    if (kind === 0) bytes[at] = randomInt(random, 256);
    else if (kind === 1)
      bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + randomInt(random, 9))]);
    else {
      const word = WORDS[randomInt(random, WORDS.length)] ?? '';
      const skip = kind === 2 ? 0 : word.length;
      bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(word), bytes.subarray(at + skip)]);
    }
    if (bytes.length === 0) bytes = Buffer.from('{');
  }
  return bytes;
}
