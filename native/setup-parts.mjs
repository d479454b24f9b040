// The parts of set-up in the order of their needs. Only those that are missing or out of date are made, so running it again
// costs nothing; what is there works on until what takes its place is whole.

import { mkdirSync } from 'node:fs';
import { withLock } from './setup-lock.mjs';
import { isNativeCurrent, setUpNative } from './setup-native.mjs';
import { isNpmCurrent, setUpNpm } from './setup-npm.mjs';
import { missingPackages, setUpSystem, whoMustInstall } from './setup-system.mjs';
import { IS_CLONE, ROOT, SetupError, STAMPS } from './setup-tools.mjs';
import { isTypeScriptCurrent, setUpTypeScript } from './setup-typescript.mjs';

const WORK = { system: setUpSystem, npm: setUpNpm, native: setUpNative, ts: setUpTypeScript };
export const PARTS = Object.keys(WORK);
export const ALL_PARTS = IS_CLONE ? PARTS : ['system', 'native'];

function partsToDo(wanted, options) {
  const needsNative = ['system', 'native'].some((part) => wanted.includes(part));
  const native = needsNative && isNativeCurrent(options);
  const isCurrent = {
    // A machine that got the addon ready-made needs no compiler.
    system: () => (native && wanted.length > 1) || missingPackages().length === 0,
    npm: isNpmCurrent,
    native: () => native,
    ts: isTypeScriptCurrent,
  };
  return wanted.filter((part) => !isCurrent[part]());
}

function makeStampFolder() {
  try {
    mkdirSync(STAMPS, { recursive: true });
  } catch (error) {
    throw new SetupError(`there is something to do, but ${ROOT} cannot be written: ${error.message}`);
  }
}

/** @returns whether there was anything to do */
export async function makeParts(wanted, options) {
  const first = partsToDo(wanted, options);
  if (first.length === 0) return false;
  const refusal = first.includes('system') ? whoMustInstall(missingPackages()) : undefined;
  if (refusal !== undefined) throw new SetupError(refusal);
  makeStampFolder();
  // Asked again under the lock: whoever had it may have done all of it.
  return withLock(async () => {
    const parts = partsToDo(wanted, options);
    for (const part of parts) await WORK[part](options);
    return parts.length > 0;
  });
}
