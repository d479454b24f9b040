// Loads the native addon, once; no other file does.

import { createRequire } from 'node:module';
import { OperatingError } from '../errors.js';
import { addonPath, howToBuild } from './addon-path.js';
import type { NativeAddon } from './native-addon.js';
import type { QuantiseJob, QuantiseLoss } from './native-quantise.js';
import { operationTable } from './op-table.js';

/** So that an addon of other sources is found out when it is loaded, and not by a call that it lacks. */
const EXPORTS: Readonly<Record<keyof NativeAddon, true>> = {
  nowMs: true,
  watchSignals: true,
  signalTold: true,
  lockFile: true,
  instructionSets: true,
  operationTable: true,
  configureCpu: true,
  NativeMemory: true,
  createIo: true,
  createStream: true,
  openHostExchange: true,
  NativeHostWorker: true,
  quantise: true,
  cudaStatus: true,
  warmCuda: true,
  cudaFreeBytes: true,
  cudaScratchBytes: true,
  NativeDeviceMemory: true,
  NativeCudaStream: true,
  ncclProblem: true,
  NativeGatherer: true,
  openCudaExchange: true,
  cudaPeerAccess: true,
  pinMemory: true,
  pinMemorySoon: true,
  measureReadBandwidth: true,
  measureReadBandwidthBeside: true,
  measureFlops: true,
  startableThreads: true,
  setErrorMaker: true,
  injectFault: true,
  passedFaultPoints: true,
};

let loaded: NativeAddon | undefined;

/** `NativeAddon.watchSignals`, where there is an addon; whatever needs one says what is wrong with it. */
export function signalWatch(): NativeAddon['watchSignals'] | undefined {
  try {
    const addon = native();
    return (texts, patienceMs, exitStatus) => addon.watchSignals(texts, patienceMs, exitStatus);
  } catch (error) {
    if (error instanceof OperatingError) return undefined;
    throw error;
  }
}

export function signalTold(): void {
  loaded?.signalTold();
}

/**
 * Loads the addon once: the one that ZI_ADDON names, as another build of it may be tried, or the project's own. Throws
 * NOT_FOUND or UNSUPPORTED, with the line to run.
 */
export function native(): NativeAddon {
  loaded ??= load(addonPath());
  return loaded;
}

/** As `NativeAddon.lockFile`. */
export function lockFile(descriptor: number): boolean {
  return native().lockFile(descriptor);
}

/** How many threads `quantise` takes; 0: one per processor. Returns why there are fewer, or an empty sentence. */
export function useThreads(threads: number): string {
  return native().configureCpu({ threads });
}

/** As `NativeAddon.quantise`. */
export function quantise(job: QuantiseJob): Promise<QuantiseLoss> {
  return native().quantise(job);
}

function load(path: string): NativeAddon {
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(path) as NativeAddon;
  } catch (error) {
    throw cannotLoad(path, error instanceof Error ? error.message : String(error));
  }
  const lacking = Object.keys(EXPORTS).filter((name) => !(name in addon));
  if (lacking.length > 0) throw cannotLoad(path, `it is of other sources and has no ${lacking.join(', ')}`);
  const read = addon.operationTable();
  const written = operationTable();
  const other = written.findIndex((line, place) => line !== read[place]);
  if (other >= 0 || read.length > written.length) {
    const [one = 'nothing', two = 'nothing'] = other >= 0 ? [read[other], written[other]] : read.slice(-1);
    throw cannotLoad(path, `it is of other sources and reads \`${one}\` where \`${two}\` is written`);
  }
  addon.setErrorMaker((code, sentence) => new OperatingError(code, sentence));
  return addon;
}

function cannotLoad(path: string, why: string): OperatingError {
  return new OperatingError(
    'NOT_FOUND',
    `the native addon ${path} cannot be loaded (${why}): ${howToBuild()}, which builds it for this machine`,
  );
}
