// Writes the header of a safetensors file: what lies where, before the tensors themselves.

import { roundUp } from '../../offload/index.js';

export interface TensorEntry {
  readonly name: string;
  /** As the format spells it. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly sizeBytes: number;
}

/**
 * Eight bytes with the length of the JSON text, then the text, padded with spaces so that the first tensor begins at a
 * multiple of `alignmentBytes`. The tensors follow it in this order, without gaps: readers allow none.
 */
export function safetensorsHeader(
  tensors: readonly TensorEntry[],
  alignmentBytes: number,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: { format: 'pt', ...metadata } };
  let offset = 0;
  for (const { name, dtype, shape, sizeBytes } of tensors) {
    entries[name] = { dtype, shape, data_offsets: [offset, offset + sizeBytes] };
    offset += sizeBytes;
  }
  const text = Buffer.from(JSON.stringify(entries));
  const header = Buffer.alloc(roundUp(8 + text.length, alignmentBytes), ' ');
  header.writeBigUInt64LE(BigInt(header.length - 8));
  text.copy(header, 8);
  return header;
}
