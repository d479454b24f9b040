// Before all tests: brings dist/ up to date, because the command line is tested as users run it.

import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MAIN = join(ROOT, 'dist/src/main.js');

export function setup(): void {
  const built = statSync(MAIN, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (Math.max(newest(join(ROOT, 'src')), newest(join(ROOT, 'offload'))) < built) return;
  // Type errors are the linter's business; what can be emitted is.
  const tool = (name: string) => join(ROOT, 'node_modules/.bin', name);
  for (const project of ['src/server/page/tsconfig.json', 'tsconfig.json'])
    spawnSync(tool('tsc'), ['-p', join(ROOT, project)]);
  spawnSync(tool('rolldown'), ['-c', 'native/program.config.mjs'], { cwd: ROOT });
  if (!statSync(MAIN, { throwIfNoEntry: false })) throw new Error('tsc left no dist/src/main.js');
}

function newest(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).reduce((latest, entry) => {
    const path = join(folder, entry.name);
    return Math.max(latest, entry.isDirectory() ? newest(path) : statSync(path).mtimeMs);
  }, 0);
}
