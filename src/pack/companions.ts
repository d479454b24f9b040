// What belongs to a checkpoint beside its weights, such as its tokenizer and its chat template: copied as it is.

import { constants } from 'node:fs';
import { copyFile, mkdir, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder, writeFailure } from '../staging/manifest.js';

const WEIGHTS = /\.(safetensors|bin|pt|pth|gguf|ckpt|h5|msgpack|onnx|npz|index\.json|partial)$/;
/** Written anew, or of this program. */
const OWN = /^(config\.json|zero-inference-.*)$/;
/** Templates beyond the first, as transformers writes them. */
const FOLDERS = ['additional_chat_templates'];

/** Hidden files are of tools that transported the checkpoint. */
function isCompanion(name: string): boolean {
  return !WEIGHTS.test(name) && !OWN.test(name) && !name.startsWith('.');
}

/** Errors: NO_SPACE, WRITE_FAILED. */
export async function copyCompanions(from: string, to: string): Promise<void> {
  for (const name of await readdir(from)) {
    const source = join(from, name);
    const target = join(to, name);
    try {
      // Caches of the hub link to their files.
      const entry = await stat(source);
      if (entry.isFile() && isCompanion(name)) await copyDurably(source, target);
      if (!entry.isDirectory() || !FOLDERS.includes(name)) continue;
      await mkdir(target);
      await copyCompanions(source, target);
    } catch (error) {
      throw writeFailure(target, error);
    }
  }
  await syncFolder(to);
}

async function copyDurably(source: string, target: string): Promise<void> {
  await copyFile(source, target, constants.COPYFILE_FICLONE);
  const file = await open(target, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
