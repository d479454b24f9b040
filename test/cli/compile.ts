// Before all tests: brings dist/ up to date, because the command line is tested as users run it, and what tests import of the
// project is run as it was compiled.

import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MAIN = join(ROOT, 'dist/src/main.js');

/** How set-up tells what dist/ was made of. */
interface SetUpTypeScript {
  readonly COMPILED_FROM: string;
  compiledHash(): string;
  isCompiled(): boolean;
}

export async function setup(): Promise<void> {
  // A tree that was brought to another machine without a compiler runs what came with it.
  if (!existsSync(join(ROOT, 'node_modules/typescript')) && existsSync(MAIN)) return;
  const script = new URL('../../native/setup-typescript.mjs', import.meta.url).href;
  const { COMPILED_FROM, compiledHash, isCompiled } = (await import(script)) as SetUpTypeScript;
  if (isCompiled() && existsSync(MAIN)) return;
  const hash = compiledHash();
  const tool = (name: string) => join(ROOT, 'node_modules/.bin', name);
  // Type errors are the linter's business; what can be emitted is.
  for (const project of ['src/server/page/tsconfig.json', 'tsconfig.json'])
    spawnSync(tool('tsc'), ['-p', join(ROOT, project)]);
  if (!existsSync(MAIN)) throw new Error('tsc left no dist/src/main.js');
  const { status, stderr } = spawnSync(tool('rolldown'), ['-c', 'native/program.config.mjs'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the program cannot be put into few files: ${stderr}`);
  writeFileSync(join(ROOT, 'dist', COMPILED_FROM), hash);
}
