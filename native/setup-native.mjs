// The native addon: compiled in a folder beside the one that is used, and put in its place once it loads.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join, relative } from 'node:path';
import { ARCHITECTURES, gpuPart } from './setup-gpu.mjs';
import { areHeadersStale, copyHeaders } from './setup-npm.mjs';
import { ADDON_NAME, prebuiltAddon } from './setup-prebuilt.mjs';
import {
  capture,
  compiler,
  filesBelow,
  hashFiles,
  IS_CLONE,
  onPath,
  PATH,
  ROOT,
  readStamp,
  runStep,
  SetupError,
  say,
  setUpCommand,
  writeStamp,
} from './setup-tools.mjs';

const ADDON = join(ROOT, 'native/build/Release', ADDON_NAME);
/** What CMake makes and remembers. */
const BUILDING = join(ROOT, 'native/building');
const BUILT = join(BUILDING, 'Release', ADDON_NAME);
/** The section of an executable in which nvcc leaves machine code for GPUs. */
const CUDA_SECTION = '.nv_fatbin';

/** What the addon that is there was compiled for. */
function builtArchitectures() {
  if (!existsSync(ADDON)) return [];
  return readStamp('native')?.architectures ?? (hasCuda(ADDON) ? ARCHITECTURES : []);
}

/**
 * `config` covers what CMake remembers from its first run; `sources` all that is compiled. Without a compiler
 * `toolchain` is undefined: a built addon then counts as current, since it needs no compiler to run.
 */
function nativeState({ cuda }) {
  const versions = [
    capture(compiler(), ['--version']),
    capture('cmake', ['--version']),
    onPath('ninja') ? 'ninja' : 'make',
  ];
  const toolchain = versions.includes(undefined) ? undefined : versions.join('\n');
  const native = join(ROOT, 'native');
  const flags = [process.arch, process.env.CXX, process.env.CXXFLAGS, process.env.LDFLAGS];
  return {
    ...gpuPart(cuda, { built: builtArchitectures(), remembered: readStamp('native')?.nvcc }),
    toolchain: toolchain && hashFiles([], toolchain),
    config: hashFiles([join(native, 'CMakeLists.txt')], ...flags),
    sources: hashFiles(filesBelow(native, (name) => !name.endsWith('.mjs') && !name.endsWith('.md'))),
  };
}

function hasCuda(path) {
  return readFileSync(path).includes(CUDA_SECTION);
}

/** Undefined when Node can load it, else what the loader says. Another process: a broken one may end it. */
function loadProblem(path) {
  const load = `try { process.dlopen({ exports: {} }, ${JSON.stringify(path)}) } catch (e) { console.log(e.message); process.exit(3) }`;
  const { status, signal, stdout } = spawnSync(process.execPath, ['-e', load], { encoding: 'utf8' });
  if (status === 0) return undefined;
  return stdout.trim() || `loading it ends Node with ${signal ?? `status ${status}`}`;
}

/** Nothing would be made otherwise by building again. An installed package needs no addon of its own beside a prebuilt one. */
export function isNativeCurrent(options) {
  const prebuilt = IS_CLONE || existsSync(ADDON) ? undefined : prebuiltAddon();
  if (prebuilt !== undefined && loadProblem(prebuilt) === undefined) return true;
  if (!existsSync(ADDON) || areHeadersStale() || loadProblem(ADDON) !== undefined) return false;
  const stamp = readStamp('native');
  const state = nativeState(options);
  const sameTools =
    state.toolchain === undefined ||
    (stamp?.toolchain === state.toolchain &&
      (state.nvcc === null || stamp.nvccVersion === state.nvccVersion));
  return (
    sameTools &&
    stamp?.sources === state.sources &&
    stamp.config === state.config &&
    `${stamp.architectures}` === `${state.architectures}`
  );
}

export async function setUpNative(options) {
  const state = nativeState(options);
  const { architectures, nvcc, note } = state;
  if (state.toolchain === undefined)
    throw new SetupError(`no C++ compiler or no cmake: run ${setUpCommand()}`);
  if (architectures.length > 0 && nvcc === null) {
    throw new SetupError(
      `${relative(ROOT, ADDON)} was built with a GPU part and has to be built anew, but ${note} on the path or where it was: ` +
        `put it on the path (export PATH=/usr/local/cuda/bin:$PATH), or build without GPUs by ${setUpCommand('--cuda', 'none')}`,
    );
  }
  copyHeaders();
  await compile(state);
  const problem = existsSync(BUILT)
    ? loadProblem(BUILT)
    : `there is no ${relative(ROOT, BUILT)} after the build`;
  if (problem !== undefined) throw new SetupError(`the new addon cannot be loaded: ${problem}`);
  if (architectures.length > 0 && !hasCuda(BUILT)) {
    // CMake would not look again.
    rmSync(BUILDING, { recursive: true, force: true });
    throw new SetupError(
      `${nvcc} is there, but CMake cannot compile with it (see .setup/native-addon.log): mend that, or build without GPUs by ` +
        setUpCommand('--cuda', 'none'),
    );
  }
  if (architectures.length === 0 && hasCuda(BUILT)) {
    throw new SetupError(
      'the new addon has a part for GPUs though none was asked for: remove native/building, and run this again',
    );
  }
  publish();
  writeStamp('native', state);
  const isWhole = architectures.length === ARCHITECTURES.length;
  say(
    architectures.length === 0
      ? `the addon has no part for GPUs, as ${note}`
      : `GPU part by ${nvcc}, for ${isWhole ? 'all GPUs' : `this machine's GPUs (${architectures.join(', ')})`}`,
  );
}

/**
 * What a killed run left may hold half an object file, and CMake's memory of other tools or settings would win over
 * new ones: both begin anew. An ordinary compile error does not, so that mending it costs one file; nor does a GPU part
 * that is added, as it leaves the other objects as they are.
 */
async function compile({ toolchain, nvcc, nvccVersion, architectures, config }) {
  const made = { toolchain, nvccVersion, config };
  const before = readStamp('native-building');
  const same =
    before?.toolchain === toolchain &&
    before.config === config &&
    [null, nvccVersion].includes(before.nvccVersion);
  if (!same || before.state === 'begun') rmSync(BUILDING, { recursive: true, force: true });
  writeStamp('native-building', { ...made, state: 'begun' });
  const env = nvcc === null ? {} : { CUDACXX: nvcc, PATH: [PATH, dirname(nvcc)].join(delimiter) };
  try {
    await runStep('native addon', buildCommands(architectures, env));
  } catch (error) {
    if (error instanceof SetupError && error.exitStatus === 1) {
      writeStamp('native-building', { ...made, state: 'failed' });
    }
    throw error;
  }
  writeStamp('native-building', { ...made, state: 'done' });
}

/**
 * cmake-js drives CMake where it is installed, as it is with the tools of a clone. An installed package has none of them,
 * and CMake alone does the same.
 */
function buildCommands(architectures, env) {
  // cmake-js leaves out what is empty, and the default is all GPUs.
  const gpus = architectures.length > 0 ? architectures.join(';') : 'OFF';
  const settings = { CMAKE_BUILD_TYPE: 'Release', ZI_CUDA_ARCHITECTURES: gpus };
  const defined = (prefix) => Object.entries(settings).map(([name, value]) => `${prefix}${name}=${value}`);
  const generator = onPath('ninja') ? 'Ninja' : 'Unix Makefiles';
  const jobs = `${availableParallelism()}`;
  const cmakeJs = join(ROOT, 'node_modules/.bin/cmake-js');
  if (existsSync(cmakeJs)) {
    const folders = ['-d', 'native', '-O', 'native/building', '-G', generator];
    return [
      { command: cmakeJs, args: ['configure', ...folders, ...defined('--CD')], env },
      { command: cmakeJs, args: ['build', ...folders, ...defined('--CD'), '-p', jobs], env },
    ];
  }
  return [
    {
      command: 'cmake',
      args: ['-S', 'native', '-B', 'native/building', '-G', generator, ...defined('-D')],
      env,
    },
    { command: 'cmake', args: ['--build', 'native/building', '--parallel', jobs], env },
  ];
}

/** In one step, so that a program that starts meanwhile loads the old one or the new one. */
function publish() {
  const copy = `${ADDON}.new`;
  mkdirSync(dirname(ADDON), { recursive: true });
  copyFileSync(BUILT, copy);
  renameSync(copy, ADDON);
}
