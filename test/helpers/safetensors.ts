// Writes safetensors files for tests: valid ones from tensors, and any bytes around a header of one's own.

import { writeFileSync } from 'node:fs';
import { DTYPE_BITS } from '../../src/checkpoint/safetensors.js';

export interface TestTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** As many bytes as type and shape need; zeros when absent. */
  readonly data?: Uint8Array;
}

/** Length field, header (any text or bytes) and `dataBytes` bytes of zeros or the given data. */
export function safetensorsBytes(header: string | Uint8Array, data: number | Uint8Array): Buffer {
  const headerBytes = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerBytes.byteLength));
  return Buffer.concat([length, headerBytes, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

/** The header object of these tensors, stored one after another. */
export function headerOf(tensors: readonly TestTensor[]): Record<string, unknown> {
  const header: [string, unknown][] = [];
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const end = offset + tensorBytes(dtype, shape);
    header.push([name, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  return Object.fromEntries(header);
}

export function writeSafetensors(
  path: string,
  tensors: readonly TestTensor[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): void {
  const data = tensors.map((t) => t.data ?? Buffer.alloc(tensorBytes(t.dtype, t.shape)));
  const header = JSON.stringify({ __metadata__: metadata, ...headerOf(tensors) });
  // Writers pad with spaces so that data begins 8-byte aligned.
  const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
  writeFileSync(path, safetensorsBytes(padded, Buffer.concat(data)));
}

function tensorBytes(dtype: string, shape: readonly number[]): number {
  return (shape.reduce((product, size) => product * size, 1) * (DTYPE_BITS[dtype] ?? 8)) / 8;
}
