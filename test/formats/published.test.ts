// Matrices of families that are not run yet, as their makers store them: read to the same values as in transformers.

import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { readSafetensorsHeader } from '../../src/checkpoint/safetensors.js';
import { readDeclared } from '../../src/formats/declared.js';
import { readNotes } from '../../src/formats/notes.js';
import type { MatrixPlace } from '../../src/formats/reading.js';
import { readMatrix } from '../../src/formats/registry.js';
import { valuesOf } from './matrix-values.js';
import { bytesOf } from './stored-tensor.js';

/** Reads matrices of one file under a configuration. */
async function readerOf(fixture: string, quantization: Readonly<Record<string, unknown>>) {
  const path = fileURLToPath(new URL(`../fixtures/formats/${fixture}.safetensors`, import.meta.url));
  const header = await readSafetensorsHeader(path);
  const tensors = new Map([...header.tensors].map(([name, tensor]) => [name, { ...tensor, fileIndex: 0 }]));
  const config = { quantization_config: quantization };
  const checkpoint: Checkpoint = {
    folder: path,
    config,
    generationConfig: {},
    files: [path],
    fileStates: [],
    totalBytes: header.sizeBytes,
    tensors,
    unfound: new Map(),
    repeated: new Map(),
    find: (name) => tensors.get(name),
  };
  const declared = readDeclared(config, 'config.json');
  const context = {
    checkpoint,
    declared,
    type: 'bf16',
    notes: await readNotes(checkpoint, declared),
  } as const;
  return (place: Omit<MatrixPlace, 'key' | 'inputMajor'>) => {
    const { name, shape } = place;
    const found = present(readMatrix(context, { key: name, inputMajor: false, ...place }), name);
    return valuesOf({ key: name, shape, ...found }, checkpoint.files);
  };
}

/** The first of SHA-256 of the values as bfloat16, as torch computed them. */
function digest(values: Float64Array): string {
  return createHash('sha256').update(bytesOf('bf16', values)).digest('hex').slice(0, 16);
}

describe('DeepSeek-V3, blocks of 128 × 128 with short last ones', () => {
  it.each([
    ['model.layers.0.self_attn.kv_a_proj_with_mqa', [80, 160], '15d88baa6661053f'],
    ['model.layers.0.self_attn.q_b_proj', [192, 96], '2a8aadf343036f33'],
    ['model.layers.0.mlp.down_proj', [160, 192], '3a0484c3e0364e68'],
    ['model.layers.1.mlp.experts.2.down_proj', [160, 96], 'e2d4e190678a111a'],
    ['model.layers.1.mlp.experts.0.gate_proj', [96, 160], '5ff87f28606afe28'],
  ] as const)('%s', async (module, shape, expected) => {
    const read = await readerOf('deepseek-v3-fp8', { quant_method: 'fp8', weight_block_size: [128, 128] });
    const values = read({ name: `${module}.weight`, shape, whole: shape, matrix: 0, row: 0 });
    expect(digest(values)).toBe(expected);
  });
});

describe('gpt-oss, blocks of 32 in one tensor of all experts', () => {
  it.each([
    ['gate_up_proj', [192, 64], '50d98819262f3042', '2a32030735f1cb8c'],
    ['down_proj', [64, 96], 'f60631046eccf1cb', '5a8876e255ad9977'],
  ] as const)('%s', async (part, shape, ofAll, ofLast) => {
    const read = await readerOf('gpt-oss-mxfp4', { quant_method: 'mxfp4' });
    const place = { name: `model.layers.0.mlp.experts.${part}`, shape, whole: [4, ...shape], row: 0 };
    const experts = [0, 1, 2, 3].map((matrix) => read({ ...place, matrix }));
    expect(digest(Float64Array.from(experts.flatMap((values) => [...values])))).toBe(ofAll);
    expect(digest(present(experts[3], 'expert'))).toBe(ofLast);
    // Rows of one expert from the middle on, as where two matrices of it are stored as one.
    const [N, K] = shape;
    const half = read({ ...place, shape: [N / 2, K], matrix: 3, row: N / 2 });
    expect(half).toEqual(experts[3]?.subarray((N / 2) * K));
  });
});
