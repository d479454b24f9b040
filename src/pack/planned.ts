// The checkpoint that packing would give, as far as plans look at it: where each tensor would lie, before any is written.

import { join } from 'node:path';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { safetensorsHeader } from '../checkpoint/safetensors-header.js';
import { ALIGNMENT_BYTES } from '../files/direct-file.js';
import { packMetadata } from './identity.js';
import type { PreparedPack } from './prepare.js';
import { quantizationConfig } from './scheme.js';

/** Its files do not exist. */
export function plannedCheckpoint(source: Checkpoint, { plan, id }: PreparedPack, gpus: number): Checkpoint {
  const tensors = new Map<string, StoredTensor>();
  const metadata = packMetadata(id, plan.scheme, gpus);
  for (const [fileIndex, { sections }] of plan.files.entries()) {
    let fileOffset = safetensorsHeader(sections, ALIGNMENT_BYTES, metadata).length;
    for (const { name, dtype, shape, sizeBytes } of sections) {
      tensors.set(name, { name, dtype, shape, sizeBytes, fileIndex, fileOffset });
      fileOffset += sizeBytes;
    }
  }
  return {
    ...source,
    config: { ...source.config, quantization_config: quantizationConfig(plan.scheme, plan.ignored) },
    files: plan.files.map(({ name }) => join(source.folder, name)),
    fileStates: [],
    totalBytes: plan.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    tensors,
    unfound: new Map(),
    repeated: new Map(),
    find: (name) => tensors.get(name),
  };
}
