// Which GPUs the addon is compiled for: those that --cuda asks for, or those that are here.

import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { capture, onPath, PATH, SetupError } from './setup-tools.mjs';

/**
 * `newest`: for the newest that machine code is compiled for, which has the most kernels of its own.
 * `auto`: for the GPUs that are here, if any; nothing that the addon has already is taken away. `known`: for all but those that are
 * newer than every machine code, which saves a fifth of the time and leaves no line of the kernels uncompiled.
 */
export const CUDA_CHOICES = ['auto', 'all', 'known', 'newest', 'native', 'none'];
/** As native/CMakeLists.txt has them by default: a GPU gets the code that it would run of a build with all of them. */
export const ARCHITECTURES = ['80-real', '90a-real', '90-virtual'];
const NEWER = '90-virtual';
const NEWEST = '90a-real';
const OLDEST_NVCC_MAJOR = 12;

/** @param capability `9.0` */
function architectureFor(capability) {
  const [major, minor] = capability.split('.').map(Number);
  if (!(major >= 8)) return undefined;
  if (major === 8) return '80-real';
  return major === 9 && minor === 0 ? '90a-real' : NEWER;
}

/** Compute capabilities of the GPUs here; none where the driver's nvidia-smi is not there to tell. */
function capabilitiesHere() {
  if (!onPath('nvidia-smi')) return [];
  const text = capture('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader']) ?? '';
  return text.match(/^\d+\.\d+$/gm) ?? [];
}

function architecturesHere() {
  const here = new Set(capabilitiesHere().map(architectureFor));
  return ARCHITECTURES.filter((architecture) => here.has(architecture));
}

/** The compiler for GPUs: what CMake is told, or finds, or `remembered` of the last build though no path leads to it. */
function nvccPath(remembered) {
  const { CUDACXX = '', CUDA_PATH = '/usr/local/cuda' } = process.env;
  if (CUDACXX !== '') return CUDACXX;
  const folder = PATH.split(delimiter).find((entry) => existsSync(join(entry, 'nvcc')));
  return [folder && join(folder, 'nvcc'), remembered, join(CUDA_PATH, 'bin/nvcc')].find(
    (path) => typeof path === 'string' && existsSync(path),
  );
}

/** Null where there is none that can compile the GPU part; `note` then says so. */
function findNvcc(remembered) {
  const path = nvccPath(remembered);
  if (path === undefined) {
    return { nvcc: null, nvccVersion: null, note: 'there is no nvcc (of the CUDA toolkit, 12 or later)' };
  }
  const nvccVersion = capture(path, ['--version']) ?? null;
  const major = /release (\d+)/.exec(nvccVersion ?? '')?.[1];
  if (major !== undefined && Number(major) < OLDEST_NVCC_MAJOR) {
    return { nvcc: null, nvccVersion: null, note: `${path} is of CUDA ${major}: 12 or later is needed` };
  }
  return { nvcc: path, nvccVersion, note: '' };
}

/** What is asked for, before it is known whether it can be had. */
function wanted(choice, built) {
  if (choice === 'none') return [];
  if (choice === 'all') return ARCHITECTURES;
  const here = architecturesHere();
  if (choice === 'native' && here.length === 0) {
    throw new SetupError(
      '--cuda native: nvidia-smi shows no GPU of compute capability 8.0 (Ampere) or later here; --cuda all compiles for every GPU',
    );
  }
  if (choice === 'native' && !here.every((architecture) => built.includes(architecture))) return here;
  const isKnown = (architecture) =>
    (choice === 'known' && architecture !== NEWER) || (choice === 'newest' && architecture === NEWEST);
  // Several machines may share a folder.
  return ARCHITECTURES.filter(
    (architecture) => isKnown(architecture) || [...here, ...built].includes(architecture),
  );
}

/**
 * `built`: what the addon that is there was compiled for. Of the result `architectures` are what it should be compiled for,
 * and `note` says why there are none.
 */
export function gpuPart(choice, { built, remembered }) {
  const architectures = wanted(choice, built);
  if (choice === 'none')
    return { nvcc: null, nvccVersion: null, architectures, note: '--cuda none was asked for' };
  if (architectures.length === 0) {
    return {
      nvcc: null,
      nvccVersion: null,
      architectures,
      note: 'nvidia-smi shows no GPU here that it is for',
    };
  }
  const found = findNvcc(remembered);
  return { ...found, architectures: found.nvcc === null ? built : architectures };
}
