// Seeded damage: to bytes, as drives and networks do it, and to JSON values, as programs and people do it.

import { randomInt } from './random.js';

export type Random = () => number;

export function pick<T>(random: Random, items: readonly T[]): T {
  return items[randomInt(random, items.length)] as T;
}

const NUMBERS = [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
const MOST_CHANGES = 4;

/** A copy with one to four changes; `words` are pieces that mean something in the format. */
export function mutateBytes(random: Random, original: Uint8Array, words: readonly Uint8Array[]): Buffer {
  let bytes: Buffer = Buffer.from(original);
  for (let left = 1 + randomInt(random, MOST_CHANGES); left > 0; left--) {
    bytes = changeBytes(random, bytes, words);
  }
  return bytes;
}

function changeBytes(random: Random, bytes: Buffer, words: readonly Uint8Array[]): Buffer {
  const at = randomInt(random, bytes.length + 1);
  const end = Math.min(bytes.length, at + 1 + randomInt(random, random() < 0.9 ? 16 : bytes.length));
  const cut = (inserted: Uint8Array, from = at) =>
    Buffer.concat([bytes.subarray(0, at), inserted, bytes.subarray(from)]);
  switch (randomInt(random, 9)) {
    case 0: // one bit
      if (at < bytes.length) bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << randomInt(random, 8)), at);
      return bytes;
    case 1: // one byte
      if (at < bytes.length) bytes.writeUInt8(randomInt(random, 256), at);
      return bytes;
    case 2: // a number at its limits
      if (at + 4 <= bytes.length) bytes.writeUInt32LE(pick(random, NUMBERS), at);
      return bytes;
    case 3: // the same of eight bytes
      if (at + 8 <= bytes.length) bytes.writeBigUInt64LE(BigInt(pick(random, NUMBERS)) << 31n, at);
      return bytes;
    case 4: // cut out
      return cut(Buffer.alloc(0), end);
    case 5: // cut off
      return random() < 0.3 ? bytes.subarray(0, at) : cut(Buffer.alloc(0), end);
    case 6: // twice
      return cut(bytes.subarray(at, end));
    case 7: // a word put in
      return cut(pick(random, words));
    default: // a word put over what is there
      bytes.set(pick(random, words).subarray(0, bytes.length - at), at);
      return bytes;
  }
}

const VALUES: readonly unknown[] = [
  ...[null, true, false, '', 'x', '\u0000', '\u001b[2J', '__proto__', 'constructor', '1', 'a'.repeat(3000)],
  ...[
    0,
    -0,
    1,
    2,
    3,
    -1,
    0.5,
    1e-30,
    1e300,
    -1e300,
    2 ** 31,
    2 ** 32,
    2 ** 40,
    2 ** 53,
    2 ** 53 - 1,
    2 ** 64,
  ],
  ...[[], {}, [null], [[]], [0, -1], { a: 1 }, JSON.parse('{"__proto__":{"x":1}}'), [1, 2, 3, 4]],
];

/** A copy of a JSON value with one to four changes somewhere in it. */
export function mutateJson(random: Random, original: unknown): unknown {
  let value: unknown = structuredClone(original);
  for (let left = 1 + randomInt(random, MOST_CHANGES); left > 0; left--) value = changeJson(random, value);
  return value;
}

function changeJson(random: Random, root: unknown): unknown {
  if (random() < 0.01) return structuredClone(pick(random, VALUES));
  // Walks down and changes where it stops.
  let node = root;
  for (;;) {
    const keys = typeof node === 'object' && node !== null ? Object.keys(node) : [];
    if (keys.length === 0) return root;
    const parent = node as Record<string, unknown>;
    const key = pick(random, keys);
    const child = parent[key];
    if (typeof child === 'object' && child !== null && Object.keys(child).length > 0 && random() < 0.8) {
      node = child;
      continue;
    }
    const other = pick(random, keys);
    const action = randomInt(random, 8);
    if (action === 0) delete parent[key];
    else if (action === 1) parent[key] = parent[other];
    else if (action === 2 && !Array.isArray(parent)) define(parent, String(pick(random, VALUES)), child);
    else if (action === 3 && typeof child === 'number') parent[key] = child + pick(random, [-1, 1, 0.5]);
    else if (action === 4 && typeof child === 'number') parent[key] = child * pick(random, [-1, 2, 1e9, 0]);
    else if (action === 5) parent[key] = nested(randomInt(random, 2000));
    else parent[key] = structuredClone(pick(random, VALUES));
    return root;
  }
}

/** Also for `__proto__`, which an assignment would take for something else. */
function define(target: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
}

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}

/** JSON text of a changed value, and sometimes damage to the text itself. */
export function mutateJsonText(random: Random, original: unknown, words: readonly Uint8Array[]): Buffer {
  const text = Buffer.from(JSON.stringify(random() < 0.8 ? mutateJson(random, original) : original));
  return random() < 0.3 ? mutateBytes(random, text, words) : text;
}
