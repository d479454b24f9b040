// A fixture checkpoint with other tensors or another configuration, as files in the wild differ from well-made ones.

import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { modelFolder } from './fixtures.js';
import { type TestTensor, writeSafetensors } from './safetensors.js';
import { tempFolder } from './temp-folder.js';

type WholeTensor = Required<TestTensor>;

export interface Changes {
  /** Added to config.json. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** What becomes of the tensors; they stay in one file unless `files` says otherwise. */
  readonly tensors?: (tensors: WholeTensor[]) => readonly TestTensor[];
  /** File name → its tensors, in place of model.safetensors. */
  readonly files?: (tensors: WholeTensor[]) => Readonly<Record<string, readonly TestTensor[]>>;
  /** Other files, as JSON. */
  readonly json?: Readonly<Record<string, unknown>>;
}

export async function changedCheckpoint(fixture: string, changes: Changes): Promise<string> {
  const from = modelFolder(fixture);
  const to = tempFolder();
  for (const name of readdirSync(from)) {
    if (!/safetensors|golden/.test(name)) copyFileSync(join(from, name), join(to, name));
  }
  const tensors = await tensorsOf(from);
  const { config, json = {}, tensors: change = (all: WholeTensor[]) => all } = changes;
  const files = changes.files?.(tensors) ?? { 'model.safetensors': change(tensors) };
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(to, name)), { recursive: true });
    writeSafetensors(join(to, name), content);
  }
  const own = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8'));
  const written = { 'config.json': { ...own, ...config }, ...json };
  for (const [name, content] of Object.entries(written)) {
    writeFileSync(join(to, name), JSON.stringify(content));
  }
  return to;
}

async function tensorsOf(folder: string): Promise<WholeTensor[]> {
  const { files, tensors } = await openCheckpoint(folder);
  const contents = files.map((path) => readFileSync(path));
  return [...tensors.values()].map(({ name, dtype, shape, fileIndex, fileOffset, sizeBytes }) => {
    const data = contents[fileIndex]?.subarray(fileOffset, fileOffset + sizeBytes) ?? Buffer.alloc(0);
    return { name, dtype, shape, data };
  });
}

/** The tensor of that name under another one. */
export function renamed(tensors: readonly WholeTensor[], name: string, to: string): WholeTensor[] {
  return tensors.map((tensor) => (tensor.name === name ? { ...tensor, name: to } : tensor));
}

/** A copy of the tensor under another name, with `change` applied to its bytes. */
export function copied(
  tensors: readonly WholeTensor[],
  name: string,
  to: string,
  change: (bytes: Buffer) => Uint8Array = (bytes) => bytes,
): WholeTensor {
  const tensor = tensors.find((candidate) => candidate.name === name);
  if (!tensor) throw new Error(`the fixture has no tensor ${name}`);
  return { ...tensor, name: to, data: change(Buffer.from(tensor.data)) };
}
