// A copy of a fixture checkpoint in which single values of tensors are others: damaged, as files and memories are.

import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { modelFolder } from './fixtures.js';

export interface SpoiltValue {
  readonly tensor: string;
  /** Which value, in row-major order. */
  readonly index: number;
  readonly value: number;
}

/** Fills `folder` with the fixture; each value is written in its tensor's type. */
export function spoilCheckpoint(folder: string, model: string, values: readonly SpoiltValue[]): void {
  cpSync(modelFolder(model), folder, { recursive: true });
  for (const value of values) spoil(folder, value);
}

interface Stored {
  readonly dtype: string;
  readonly data_offsets: readonly [number, number];
}

function spoil(folder: string, { tensor, index, value }: SpoiltValue): void {
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.safetensors'))) {
    const path = join(folder, name);
    const bytes = readFileSync(path);
    const headerBytes = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<string, Stored>;
    const stored = header[tensor];
    if (!stored) continue;
    const start = 8 + headerBytes + stored.data_offsets[0];
    if (stored.dtype === 'F32') bytes.writeFloatLE(value, start + index * 4);
    else bytes.writeUInt16LE(bitsOf(value, stored.dtype), start + index * 2);
    writeFileSync(path, bytes);
    return;
  }
  throw new Error(`no file of ${folder} has ${tensor}`);
}

/** NaN, infinities and zero, in the 16-bit types; in BF16 also what it holds exactly. */
function bitsOf(value: number, dtype: string): number {
  const exponent = dtype === 'F16' ? 0x7c00 : 0x7f80;
  if (Number.isNaN(value)) return exponent | 0x40;
  if (value === Number.POSITIVE_INFINITY) return exponent;
  if (value === Number.NEGATIVE_INFINITY) return 0x8000 | exponent;
  if (value === 0) return 0;
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;
  if (dtype === 'BF16' && (bits & 0xffff) === 0 && Math.fround(value) === value) return bits >>> 16;
  throw new Error(`${value} is not written in ${dtype}`);
}
