// The native addon: compiled in a folder beside the one that is used, and put in its place once it loads.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join, relative } from 'node:path';
import {
  capture,
  compiler,
  filesBelow,
  hashFiles,
  onPath,
  PATH,
  ROOT,
  readStamp,
  runStep,
  SetupError,
  say,
  writeStamp,
} from './setup-tools.mjs';

const ADDON = join(ROOT, 'native/build/Release/zero_inference.node');
/** What CMake makes and remembers. */
const BUILDING = join(ROOT, 'native/building');
const BUILT = join(BUILDING, 'Release/zero_inference.node');
/** The section of an executable in which nvcc leaves machine code for GPUs. */
const CUDA_SECTION = '.nv_fatbin';

/** The compiler for GPUs: what CMake is told, or finds, or the one that the last build had though no path leads to it. */
function nvcc() {
  const { CUDACXX = '', CUDA_PATH = '/usr/local/cuda' } = process.env;
  if (CUDACXX !== '') return CUDACXX;
  const folder = PATH.split(delimiter).find((entry) => existsSync(join(entry, 'nvcc')));
  const remembered = readStamp('native')?.nvcc;
  return [folder && join(folder, 'nvcc'), remembered, join(CUDA_PATH, 'bin/nvcc')].find(
    (path) => typeof path === 'string' && existsSync(path),
  );
}

/**
 * `config` covers what CMake remembers from its first run; `sources` all that is compiled. Without a compiler
 * `toolchain` is undefined: a built addon then counts as current, since it needs no compiler to run.
 */
function nativeState({ withoutCuda }) {
  const cuda = withoutCuda ? undefined : nvcc();
  const versions = [
    capture(compiler(), ['--version']),
    capture('cmake', ['--version']),
    onPath('ninja') ? 'ninja' : 'make',
  ];
  const toolchain = versions.includes(undefined) ? undefined : versions.join('\n');
  const native = join(ROOT, 'native');
  const settings = ['CMakeLists.txt', 'package.json'].map((name) => join(native, name));
  const flags = [process.arch, process.env.CXX, process.env.CXXFLAGS, process.env.LDFLAGS];
  return {
    toolchain: toolchain && hashFiles([], toolchain),
    nvcc: cuda ?? null,
    nvccVersion: cuda === undefined ? null : (capture(cuda, ['--version']) ?? null),
    config: hashFiles(settings, ...flags),
    sources: hashFiles(filesBelow(native, (name) => !name.endsWith('.mjs') && !name.endsWith('.md'))),
  };
}

/** An addon with a GPU part, on a machine whose nvcc cannot be found: to build now would take the part away. */
function wouldLoseCuda(state, { withoutCuda }) {
  return !withoutCuda && state.nvcc === null && existsSync(ADDON) && hasCuda(ADDON);
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

/** Nothing would be made otherwise by building again. */
export function isNativeCurrent(options) {
  const stamp = readStamp('native');
  if (!existsSync(ADDON) || loadProblem(ADDON) !== undefined) return false;
  const state = nativeState(options);
  const sameTools =
    state.toolchain === undefined ||
    (stamp?.toolchain === state.toolchain &&
      (stamp.nvccVersion === state.nvccVersion || wouldLoseCuda(state, options)));
  return stamp?.sources === state.sources && stamp.config === state.config && sameTools;
}

export async function setUpNative(options) {
  const state = nativeState(options);
  if (state.toolchain === undefined)
    throw new SetupError('no C++ compiler or no cmake: run node native/setup.mjs');
  if (wouldLoseCuda(state, options)) {
    throw new SetupError(
      `${relative(ROOT, ADDON)} was built with a GPU part and has to be built anew, but nvcc is neither on the path nor where it ` +
        'was: put it on the path (export PATH=/usr/local/cuda/bin:$PATH), or build without GPUs by ' +
        'npm run setup -- --without_cuda',
    );
  }
  await compile(state);
  const problem = existsSync(BUILT)
    ? loadProblem(BUILT)
    : `there is no ${relative(ROOT, BUILT)} after the build`;
  if (problem !== undefined) throw new SetupError(`the new addon cannot be loaded: ${problem}`);
  publish();
  writeStamp('native', state);
  say(
    state.nvcc === null ? 'the addon has no part for GPUs, as there is no nvcc' : `GPU part by ${state.nvcc}`,
  );
}

/**
 * What a killed run left may hold half an object file, and CMake's memory of other tools or settings would win over
 * new ones: both begin anew. An ordinary compile error does not, so that mending it costs one file.
 */
async function compile({ toolchain, nvcc: cuda, nvccVersion, config }) {
  const made = { toolchain, nvccVersion, config };
  const before = readStamp('native-building');
  const same = Object.keys(made).every((key) => before?.[key] === made[key]);
  if (!same || before.state === 'begun') rmSync(BUILDING, { recursive: true, force: true });
  writeStamp('native-building', { ...made, state: 'begun' });
  const args = ['build', '-d', 'native', '-O', 'native/building', '-p', `${availableParallelism()}`];
  if (cuda === null) args.push('--CDZI_CUDA=OFF');
  const env = cuda === null ? {} : { CUDACXX: cuda, PATH: [PATH, dirname(cuda)].join(delimiter) };
  try {
    await runStep('native addon', [{ command: join(ROOT, 'node_modules/.bin/cmake-js'), args, env }]);
  } catch (error) {
    if (error instanceof SetupError && error.exitStatus === 1) {
      writeStamp('native-building', { ...made, state: 'failed' });
    }
    throw error;
  }
  writeStamp('native-building', { ...made, state: 'done' });
}

/** In one step, so that a program that starts meanwhile loads the old one or the new one. */
function publish() {
  const copy = `${ADDON}.new`;
  mkdirSync(dirname(ADDON), { recursive: true });
  copyFileSync(BUILT, copy);
  renameSync(copy, ADDON);
}
