// Parses .bin files in memory, and insists that a bad one is refused with one sentence.

import { OperatingError } from '../../offload/errors.js';
import { parseTorchFile, type TorchHeader } from '../../src/checkpoint/torch-bin.js';
import { sourceOf } from '../../src/files/byte-source.js';

export function parseTorchBytes(bytes: Uint8Array): Promise<TorchHeader> {
  return parseTorchFile(sourceOf(bytes, 'x.bin'));
}

/** The message of the refusal. */
export async function torchRefusal(bytes: Uint8Array): Promise<string> {
  const error: unknown = await parseTorchBytes(bytes).catch((thrown: unknown) => thrown);
  if (!(error instanceof OperatingError)) throw new Error(`expected a refusal, got ${String(error)}`);
  if (error.code !== 'BAD_TORCH_FILE') throw new Error(`expected BAD_TORCH_FILE, got ${error.code}`);
  if (error.message.length > 600) throw new Error(`a message of ${error.message.length} characters`);
  return error.message;
}
