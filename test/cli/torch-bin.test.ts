// The command line on PyTorch .bin weights: the same text as from safetensors, streamed in place.

import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { torchBin } from '../helpers/write-torch-bin.js';

test.each(['--cpu_offload', '--nvme_offload_path'])('%s', async (placement) => {
  const original = modelFolder('shakespeare-bloom');
  const folder = tempFolder();
  cpSync(original, folder, { recursive: true });
  const { files, tensors } = await openCheckpoint(original);
  const bytes = readFileSync(files[0] ?? '');
  const stored = [...tensors.values()].map((tensor) => ({
    ...tensor,
    data: bytes.subarray(tensor.fileOffset, tensor.fileOffset + tensor.sizeBytes),
  }));
  rmSync(join(folder, 'model.safetensors'));
  writeFileSync(join(folder, 'pytorch_model.bin'), torchBin(stored));
  const args = ['--prompt', 'KING RICHARD III:', '--max_new_tokens', '16'];
  const placed = placement === '--cpu_offload' ? [placement] : [placement, folder];
  const [torch, safetensors] = [
    await runCli(['--name', folder, ...placed, ...args]),
    await runCli(['--name', original, ...args]),
  ];
  expect(torch.errors).toEqual([]);
  expect(torch.stdout).toBe(safetensors.stdout);
});
