// Brings a fresh Debian or Ubuntu machine with nothing but Node to a built zero-inference: system packages, npm
// packages, native addon, TypeScript. Does only what is missing or out of date, so running it again costs nothing.

import { existsSync, lstatSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import {
  capture,
  filesBelow,
  hashFiles,
  onPath,
  PATH,
  ROOT,
  readStamp,
  removeStamp,
  runStep,
  SetupError,
  say,
  seconds,
  withLock,
  writeStamp,
} from './setup-tools.mjs';

const PARTS = ['system', 'npm', 'native', 'ts'];
const MIN_NODE_MAJOR = 20;
const ADDON = join(ROOT, 'native/build/Release/zero_inference.node');

// ------------------------------------------------------------------------------------------------- system packages

/** Path of a C++ compiler as CMake would choose it. */
function compiler() {
  return process.env.CXX ?? ['c++', 'g++', 'clang++'].find(onPath) ?? 'c++';
}

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
  if (packages.length === 0) return false;
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
    return { command: words[0], args: words.slice(1) };
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
  return true;
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

async function setUpNpm() {
  // `npm ci` empties the folder; behind a link that is somebody else's.
  const isLink = lstatSync(join(ROOT, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink();
  if (isLink || npmIsCurrent()) return false;
  const [command, ...before] = npmCommand();
  // Both kinds are needed to build, whatever NODE_ENV or npm's configuration leave out by default.
  const args = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund'];
  await runStep('npm packages', [{ command, args: [...before, ...args] }]);
  return true;
}

// ---------------------------------------------------------------------------------------------------- native addon

/**
 * `config` covers what CMake remembers from its first run; `sources` all that is compiled. Without a compiler
 * `toolchain` is undefined: a built addon then counts as current, since it needs no compiler to run.
 */
function nativeState() {
  const versions = [
    capture(compiler(), ['--version']),
    capture('cmake', ['--version']),
    onPath('nvcc') ? capture('nvcc', ['--version']) : 'no nvcc',
    onPath('ninja') ? 'ninja' : 'make',
  ];
  const toolchain = versions.includes(undefined) ? undefined : versions.join('\n');
  const native = join(ROOT, 'native');
  const settings = ['CMakeLists.txt', 'package.json'].map((name) => join(native, name));
  const flags = [process.arch, process.env.CXX, process.env.CXXFLAGS, process.env.LDFLAGS];
  return {
    toolchain: toolchain && hashFiles([], toolchain),
    config: hashFiles(settings, ...flags),
    sources: hashFiles(filesBelow(native, (name) => !name.endsWith('.mjs') && !name.endsWith('.md'))),
  };
}

function nativeIsCurrent(state, stamp) {
  return (
    existsSync(ADDON) &&
    stamp?.sources === state.sources &&
    stamp.config === state.config &&
    (state.toolchain === undefined || stamp.toolchain === state.toolchain)
  );
}

async function setUpNative() {
  const state = nativeState();
  const stamp = readStamp('native');
  if (nativeIsCurrent(state, stamp)) return false;
  if (state.toolchain === undefined)
    throw new SetupError('no C++ compiler or no cmake: run node native/setup.mjs');
  // No stamp: an earlier run was killed and may have left half an object file. Other tools or settings: CMake's memory
  // of the old ones would win. An ordinary compile error leaves a stamp, so that mending it costs one file.
  if (stamp?.config !== state.config || stamp.toolchain !== state.toolchain) {
    rmSync(join(ROOT, 'native/build'), { recursive: true, force: true });
  }
  removeStamp('native');
  const args = ['build', '-d', 'native', '-O', 'native/build', '-p', `${availableParallelism()}`];
  try {
    await runStep('native addon', [{ command: join(ROOT, 'node_modules/.bin/cmake-js'), args }]);
  } catch (error) {
    if (error instanceof SetupError && error.exitStatus === 1)
      writeStamp('native', { ...state, sources: null });
    throw error;
  }
  if (!existsSync(ADDON)) throw new SetupError(`the native build left no ${relative(ROOT, ADDON)}`);
  writeStamp('native', state);
  return true;
}

// ------------------------------------------------------------------------------------------------------ TypeScript

function typescriptSources() {
  return ['src', 'offload', 'test', 'bench'].flatMap((folder) =>
    filesBelow(join(ROOT, folder), (name) => name.endsWith('.ts')),
  );
}

async function setUpTypeScript() {
  const sources = typescriptSources();
  const hash = hashFiles([...sources, join(ROOT, 'tsconfig.json'), join(ROOT, 'package-lock.json')]);
  const outputs = sources.map((path) => join(ROOT, 'dist', relative(ROOT, path).replace(/\.ts$/, '.js')));
  if (readStamp('ts')?.hash === hash && outputs.every((path) => existsSync(path))) return false;
  removeStamp('ts');
  await runStep('TypeScript', [
    { command: join(ROOT, 'node_modules/.bin/tsc'), args: ['-p', 'tsconfig.json'] },
  ]);
  // Modules whose sources are gone must not stay importable.
  const current = new Set(outputs);
  for (const path of filesBelow(join(ROOT, 'dist'), (name) => name.endsWith('.js'))) {
    if (!current.has(path)) rmSync(path);
  }
  writeStamp('ts', { hash });
  return true;
}

// ------------------------------------------------------------------------------------------------------------ main

/** Runs the wanted parts in the order of their needs; returns how many had anything to do. */
async function setUp(wanted) {
  let changed = 0;
  const part = async (name, work) => {
    if (wanted.includes(name) && (await work())) changed++;
  };
  // A machine that got the addon ready-made needs no compiler.
  const needsTools = wanted.length === 1 || !nativeIsCurrent(nativeState(), readStamp('native'));
  if (needsTools) await part('system', setUpSystem);
  await part('npm', setUpNpm);
  await part('native', setUpNative);
  await part('ts', setUpTypeScript);
  return changed;
}

function readArguments() {
  try {
    const { only } = parseArgs({ options: { only: { type: 'string' } } }).values;
    if (only !== undefined && !PARTS.includes(only)) throw new Error(`--only is '${only}'`);
    return only === undefined ? PARTS : [only];
  } catch (error) {
    throw new SetupError(`${error.message}. Usage: node native/setup.mjs [--only ${PARTS.join('|')}]`, 2);
  }
}

async function main() {
  const startMs = performance.now();
  const wanted = readArguments();
  if (Number(process.versions.node.split('.')[0]) < MIN_NODE_MAJOR) {
    throw new SetupError(`Node ${process.versions.node} is too old: install Node ${MIN_NODE_MAJOR} or later`);
  }
  if (process.platform !== 'linux') {
    throw new SetupError(
      `${process.platform} is not supported: zero-inference reads with Linux's io_uring and O_DIRECT`,
    );
  }
  const changed = await withLock(() => setUp(wanted));
  say(changed > 0 ? `ready in ${seconds(startMs)}` : `nothing to do (${seconds(startMs)})`);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exitCode = error.exitStatus;
}
