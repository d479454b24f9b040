// The compiled TypeScript in dist/: made in a folder beside it, which then takes its place.

import { chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import {
  filesBelow,
  hashFiles,
  ROOT,
  readStamp,
  replaceFolder,
  runStep,
  writeStamp,
} from './setup-tools.mjs';

/** What runs in Node, and what runs in browsers. */
const PROJECTS = ['tsconfig.json', 'src/server/page/tsconfig.json'];
/** How the program's modules come into few files, and where these lie. */
const IN_FEW_FILES = 'native/program.config.mjs';
const PROGRAM = join(ROOT, 'dist/src/program/');

function typescriptSources() {
  return ['src', 'offload', 'test', 'bench'].flatMap((folder) =>
    filesBelow(join(ROOT, folder), (name) => name.endsWith('.ts')),
  );
}

function typescriptHash(sources) {
  return hashFiles([
    ...sources,
    ...[...PROJECTS, IN_FEW_FILES].map((path) => join(ROOT, path)),
    join(ROOT, 'package-lock.json'),
  ]);
}

/** In dist/: the hash of the sources it is of. Tests compile in place, so the stamp of the last set-up does not tell. */
export const COMPILED_FROM = 'compiled-from';

/** A hash of what runs from dist/. Test files do not, so that who changes one need not wait for all to be compiled. */
export function compiledHash() {
  return typescriptHash(typescriptSources().filter((path) => !path.endsWith('.test.ts')));
}

export function isCompiled() {
  const path = join(ROOT, 'dist', COMPILED_FROM);
  return existsSync(path) && readFileSync(path, 'utf8') === compiledHash();
}

/** What npm makes commands of. */
function programs() {
  const { bin = {} } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  return Object.values(bin).map((path) => join(ROOT, path));
}

const isExecutable = (path) => (statSync(path, { throwIfNoEntry: false })?.mode & 0o111) === 0o111;

/** Each source has its output, and what is packed has no other: a tsc that is run by hand leaves those of old sources. */
function isDistWhole(sources) {
  const outputs = sources.map((path) => join(ROOT, 'dist', relative(ROOT, path).replace(/\.ts$/, '.js')));
  const packed = ['src', 'offload'].flatMap((folder) =>
    filesBelow(join(ROOT, 'dist', folder), (name) => name.endsWith('.js')),
  );
  return (
    outputs.every((path) => existsSync(path)) &&
    packed.every((path) => path.startsWith(PROGRAM) || outputs.includes(path)) &&
    existsSync(join(PROGRAM, 'start.js'))
  );
}

export function isTypeScriptCurrent() {
  const sources = typescriptSources();
  return (
    readStamp('ts')?.hash === typescriptHash(sources) &&
    isDistWhole(sources) &&
    isCompiled() &&
    programs().every(isExecutable)
  );
}

/** Into a folder as deep as dist/, as maps name their sources from where they lie. */
export async function setUpTypeScript() {
  const hash = typescriptHash(typescriptSources());
  const compiled = compiledHash();
  const folder = join(ROOT, 'dist.new');
  rmSync(folder, { recursive: true, force: true });
  try {
    const tool = (name) => join(ROOT, 'node_modules/.bin', name);
    await runStep('TypeScript', [
      ...PROJECTS.map((path) => ({ command: tool('tsc'), args: ['-p', path, '--outDir', 'dist.new'] })),
      { command: tool('rolldown'), args: ['-c', IN_FEW_FILES, '--dir', 'dist.new/src'] },
    ]);
    writeFileSync(join(folder, COMPILED_FROM), compiled);
    replaceFolder(folder, join(ROOT, 'dist'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // A link to it (npm link) is run as it is.
  for (const path of programs()) chmodSync(path, 0o755);
  writeStamp('ts', { hash });
}
