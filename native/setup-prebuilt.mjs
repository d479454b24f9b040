// The addon that comes ready-made in a package for this platform, where that package is installed beside this one.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { ROOT } from './setup-tools.mjs';

/** As offload/port/addon-path.ts has it. */
export const PREBUILT = '@zero-inference/linux-x64';
export const ADDON_NAME = 'zero_inference.node';

const readPackage = (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));

/** Undefined where there is none, or one of another version, whose operations may be encoded otherwise. */
export function prebuiltAddon() {
  try {
    const path = createRequire(join(ROOT, 'package.json')).resolve(`${PREBUILT}/${ADDON_NAME}`);
    return readPackage(dirname(path)).version === readPackage(ROOT).version ? path : undefined;
  } catch {
    return undefined;
  }
}
