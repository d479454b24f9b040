// The compiled TypeScript in dist/: made in a folder beside it, which then takes its place.

import { chmodSync, existsSync, readFileSync, rmSync, statSync } from 'node:fs';
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

function typescriptSources() {
  return ['src', 'offload', 'test', 'bench'].flatMap((folder) =>
    filesBelow(join(ROOT, folder), (name) => name.endsWith('.ts')),
  );
}

function typescriptHash(sources) {
  return hashFiles([
    ...sources,
    ...PROJECTS.map((path) => join(ROOT, path)),
    join(ROOT, 'package-lock.json'),
  ]);
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
  return outputs.every((path) => existsSync(path)) && packed.every((path) => outputs.includes(path));
}

export function isTypeScriptCurrent() {
  const sources = typescriptSources();
  return (
    readStamp('ts')?.hash === typescriptHash(sources) &&
    isDistWhole(sources) &&
    programs().every(isExecutable)
  );
}

/** Into a folder as deep as dist/, as maps name their sources from where they lie. */
export async function setUpTypeScript() {
  const hash = typescriptHash(typescriptSources());
  const folder = join(ROOT, 'dist.new');
  rmSync(folder, { recursive: true, force: true });
  try {
    const command = join(ROOT, 'node_modules/.bin/tsc');
    const steps = PROJECTS.map((path) => ({ command, args: ['-p', path, '--outDir', 'dist.new'] }));
    await runStep('TypeScript', steps);
    replaceFolder(folder, join(ROOT, 'dist'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // A link to it (npm link) is run as it is.
  for (const path of programs()) chmodSync(path, 0o755);
  writeStamp('ts', { hash });
}
