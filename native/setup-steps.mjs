// The steps of set-up: system packages, npm packages, native addon, TypeScript. Does only what is missing or out of date,
// so running it again costs nothing; what is there works on until what takes its place is whole.

import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { withLock } from './setup-lock.mjs';
import { isNativeCurrent, setUpNative } from './setup-native.mjs';
import {
  capture,
  compiler,
  filesBelow,
  hashFiles,
  onPath,
  PATH,
  ROOT,
  readStamp,
  replaceFolder,
  runStep,
  SetupError,
  STAMPS,
  say,
  seconds,
  writeStamp,
} from './setup-tools.mjs';

const PARTS = ['system', 'npm', 'native', 'ts'];

// ------------------------------------------------------------------------------------------------- system packages

function hasLiburing() {
  const cxx = compiler();
  const header = capture(cxx, ['-E', '-x', 'c++', '-'], '#include <liburing.h>\n') !== undefined;
  // The compiler prints a bare name for a library that is on none of its paths.
  const library = ['liburing.a', 'liburing.so'].some((file) =>
    (capture(cxx, [`-print-file-name=${file}`]) ?? file).includes('/'),
  );
  return header && library;
}

/** Debian's names of what the native build needs and this machine lacks. */
function missingPackages() {
  const packages = [];
  if (capture(compiler(), ['--version']) === undefined) packages.push('g++');
  if (!onPath('cmake')) packages.push('cmake');
  if (!onPath('ninja') && !onPath('make')) packages.push('ninja-build');
  if (packages.includes('g++') || !hasLiburing()) packages.push('liburing-dev');
  return packages;
}

/** Words before `apt-get` that make it work without asking anybody, or undefined when there are none. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return capture('sudo', ['-n', 'true']) === undefined ? undefined : ['sudo', '-n'];
}

async function setUpSystem() {
  const packages = missingPackages();
  if (packages.length === 0) return;
  const names = packages.join(' ');
  if (!onPath('apt-get')) {
    throw new SetupError(
      `the native build needs a C++20 compiler, cmake, make or ninja, and liburing with its headers. Install what ` +
        `Debian calls ${names} with this system's package manager, then run this again`,
    );
  }
  const prefix = rootPrefix();
  if (prefix === undefined) {
    throw new SetupError(
      `missing system packages. Run this, then try again:\n\n  sudo apt-get update && sudo apt-get install -y ${names}\n`,
    );
  }
  const apt = (...args) => {
    const words = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...args];
    // Killed half way it leaves packages that nothing can be installed beside.
    return { command: words[0], args: words.slice(1), finishes: true };
  };
  await runStep(`system packages (${names})`, [
    // Another repository on the machine may be out of order; the install says what really is missing.
    { ...apt('update'), optional: true },
    apt('install', '-y', '--no-install-recommends', ...packages),
  ]);
  const still = missingPackages();
  if (still.length > 0) {
    throw new SetupError(`apt-get installed ${names}, yet ${still.join(' ')} cannot be used from ${PATH}`);
  }
}

// ---------------------------------------------------------------------------------------------------- npm packages

/**
 * Compares npm's own record with the lockfile: npm removes it first and writes it last, so it serves as the stamp and
 * also knows of installations made by hand. Packages for other platforms are optional and absent.
 */
function npmIsCurrent() {
  try {
    const read = (path) => JSON.parse(readFileSync(join(ROOT, path), 'utf8')).packages;
    const installed = read('node_modules/.package-lock.json');
    return Object.entries(read('package-lock.json')).every(([path, entry]) => {
      if (path === '') return true;
      const found = installed[path];
      if (found === undefined) return entry.optional === true;
      return found.version === entry.version && found.integrity === entry.integrity;
    });
  } catch {
    return false;
  }
}

/** How to start the npm that started this, or else the first one found. */
function npmCommand() {
  const fromNpm = process.env.npm_execpath;
  if (fromNpm?.endsWith('npm-cli.js') && existsSync(fromNpm)) return [process.execPath, fromNpm];
  if (onPath('npm')) return ['npm'];
  throw new SetupError(
    'npm is not on the path: install it (on Debian: apt-get install npm), then run this again',
  );
}

/** Behind a link they are somebody else's. */
function isNpmCurrent() {
  const isLink = lstatSync(join(ROOT, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink();
  return isLink || npmIsCurrent();
}

/** `npm ci` empties its folder first, so it works in one beside, which then takes the other's place. */
async function setUpNpm() {
  const [command, ...before] = npmCommand();
  // Both kinds are needed to build, whatever NODE_ENV or npm's configuration leave out by default.
  const args = [...before, 'ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund'];
  const folder = join(STAMPS, 'npm');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  for (const name of ['package.json', 'package-lock.json', '.npmrc']) {
    if (existsSync(join(ROOT, name))) copyFileSync(join(ROOT, name), join(folder, name));
  }
  await runStep('npm packages', [{ command, args, cwd: folder }]);
  try {
    replaceFolder(join(folder, 'node_modules'), join(ROOT, 'node_modules'));
  } catch (error) {
    if (!['EXDEV', 'EBUSY'].includes(error.code)) throw error;
    // A mount of its own, as containers have it, can only be filled where it is.
    await runStep('npm packages', [{ command, args }]);
  }
  rmSync(folder, { recursive: true, force: true });
}

// ------------------------------------------------------------------------------------------------------ TypeScript

function typescriptSources() {
  return ['src', 'offload', 'test', 'bench'].flatMap((folder) =>
    filesBelow(join(ROOT, folder), (name) => name.endsWith('.ts')),
  );
}

function typescriptHash(sources) {
  return hashFiles([...sources, join(ROOT, 'tsconfig.json'), join(ROOT, 'package-lock.json')]);
}

/** What npm makes commands of. */
function programs() {
  const { bin = {} } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  return Object.values(bin).map((path) => join(ROOT, path));
}

const isExecutable = (path) => (statSync(path, { throwIfNoEntry: false })?.mode & 0o111) === 0o111;

function isTypeScriptCurrent() {
  const sources = typescriptSources();
  const outputs = sources.map((path) => join(ROOT, 'dist', relative(ROOT, path).replace(/\.ts$/, '.js')));
  return (
    readStamp('ts')?.hash === typescriptHash(sources) &&
    outputs.every((path) => existsSync(path)) &&
    programs().every(isExecutable)
  );
}

/** Into a folder as deep as dist/, as maps name their sources from where they lie. */
async function setUpTypeScript() {
  const hash = typescriptHash(typescriptSources());
  const folder = join(ROOT, 'dist.new');
  rmSync(folder, { recursive: true, force: true });
  try {
    const args = ['-p', 'tsconfig.json', '--outDir', 'dist.new'];
    await runStep('TypeScript', [{ command: join(ROOT, 'node_modules/.bin/tsc'), args }]);
    replaceFolder(folder, join(ROOT, 'dist'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // A link to it (npm link) is run as it is.
  for (const path of programs()) chmodSync(path, 0o755);
  writeStamp('ts', { hash });
}

// ------------------------------------------------------------------------------------------------------------ main

/** The parts that have anything to do, in the order of their needs. */
function partsToDo(wanted, options) {
  const native = isNativeCurrent(options);
  const current = {
    // A machine that got the addon ready-made needs no compiler.
    system: (native && wanted.length > 1) || missingPackages().length === 0,
    npm: isNpmCurrent(),
    native,
    ts: isTypeScriptCurrent(),
  };
  return wanted.filter((part) => !current[part]);
}

const WORK = { system: setUpSystem, npm: setUpNpm, native: setUpNative, ts: setUpTypeScript };

function readArguments(words) {
  try {
    const options = { only: { type: 'string' }, without_cuda: { type: 'boolean', default: false } };
    const { only, without_cuda: withoutCuda } = parseArgs({ args: words, options }).values;
    if (only !== undefined && !PARTS.includes(only)) throw new Error(`--only is '${only}'`);
    return { wanted: only === undefined ? PARTS : [only], withoutCuda };
  } catch (error) {
    throw new SetupError(
      `${error.message}. Usage: node native/setup.mjs [--only ${PARTS.join('|')}] [--without_cuda]`,
      2,
    );
  }
}

function makeStampFolder() {
  try {
    mkdirSync(STAMPS, { recursive: true });
  } catch (error) {
    throw new SetupError(`there is something to do, but ${ROOT} cannot be written: ${error.message}`);
  }
}

async function setUpWanted(words) {
  const startMs = performance.now();
  const { wanted, ...options } = readArguments(words);
  if (partsToDo(wanted, options).length === 0) return say(`nothing to do (${seconds(startMs)})`);
  makeStampFolder();
  // Asked again under the lock: whoever had it may have done all of it.
  const done = await withLock(async () => {
    const parts = partsToDo(wanted, options);
    for (const part of parts) await WORK[part](options);
    return parts.length;
  });
  return say(done > 0 ? `ready in ${seconds(startMs)}` : `nothing to do (${seconds(startMs)})`);
}

/** @param words the command line; sets the exit status */
export async function setUp(words) {
  try {
    await setUpWanted(words);
  } catch (error) {
    const isSystem = typeof error.code === 'string' && typeof error.syscall === 'string';
    if (!(error instanceof SetupError) && !isSystem) throw error;
    say(error.message);
    process.exitCode = error.exitStatus ?? 1;
  }
}
