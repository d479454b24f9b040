// Where the native addon lies: as this tree built it, else as a package for this platform brings it.

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OperatingError } from '../errors.js';
import { platformProblem } from './platform.js';

const ADDON = 'zero_inference.node';
/** As native/setup-prebuilt.mjs has it. */
const PREBUILT = '@zero-inference/linux-x64';

/** Both the sources (vitest) and dist/ find the project's root above them. */
const ROOT =
  ['../../', '../../../']
    .map((up) => fileURLToPath(new URL(up, import.meta.url)))
    .find((folder) => existsSync(join(folder, 'package.json'))) ?? '';

/** Throws NOT_FOUND or UNSUPPORTED, with the line to run. */
export function addonPath(): string {
  const { ZI_ADDON: chosen = '' } = process.env;
  if (chosen !== '') {
    if (existsSync(chosen)) return resolve(chosen);
    throw new OperatingError('NOT_FOUND', `ZI_ADDON names ${chosen}, which does not exist`);
  }
  const problem = platformProblem();
  if (problem !== undefined) throw new OperatingError('UNSUPPORTED', problem);
  const built = join(ROOT, 'native/build/Release', ADDON);
  return existsSync(built) ? built : prebuiltPath();
}

/** Both must be of one release: how operations are encoded may differ between two. */
function prebuiltPath(): string {
  const path = resolvePrebuilt();
  if (path === undefined) {
    throw new OperatingError(
      'NOT_FOUND',
      `the native addon is neither built nor installed as ${PREBUILT}: ${howToBuild()}`,
    );
  }
  const [own, other] = [versionIn(ROOT), versionIn(dirname(path))];
  if (own === other) return path;
  throw new OperatingError(
    'NOT_FOUND',
    `${PREBUILT} is of version ${other}, but zero-inference of ${own}: install the same of both, or ${howToBuild()}`,
  );
}

function resolvePrebuilt(): string | undefined {
  try {
    return createRequire(join(ROOT, 'package.json')).resolve(`${PREBUILT}/${ADDON}`);
  } catch {
    return undefined;
  }
}

function versionIn(folder: string): unknown {
  const read: unknown = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  return (read as { readonly version?: unknown }).version;
}

/** An installed package has its set-up, but no development packages to run it by name. */
export function howToBuild(): string {
  const isClone = existsSync(join(ROOT, 'tsconfig.json'));
  return isClone ? `run \`npm run setup\` in ${ROOT}` : `run \`node ${join(ROOT, 'native/setup.mjs')}\``;
}
