// What npm has us do when it installs, prepares or packs this package.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isNativeCurrent } from './setup-native.mjs';
import { copyHeaders } from './setup-npm.mjs';
import { makeParts } from './setup-parts.mjs';
import { missingPackages } from './setup-system.mjs';
import { ROOT, SetupError, say, setUpCommand } from './setup-tools.mjs';

/** npm sets it in a clone of a git dependency, of which it only makes a package to install. */
const IS_CLONE_TO_PACK = '_PACOTE_NO_PREPARE_' in process.env;

/**
 * Builds the addon where it can. Nothing that is missing fails the installation of somebody's whole project: types are
 * there without an addon, and its first use says what to run. System packages are not npm's to install.
 */
async function install(options) {
  if (IS_CLONE_TO_PACK) return;
  try {
    await buildWhatCanBe(options);
  } catch (error) {
    if (!(error instanceof SetupError) || error.exitStatus !== 1) throw error;
    say(`no native addon: ${error.message}. When that is mended, run ${setUpCommand()}`);
  }
}

async function buildWhatCanBe(options) {
  if (isNativeCurrent(options)) return;
  const packages = missingPackages();
  if (packages.length === 0) {
    await makeParts(['native'], options);
    return;
  }
  const names = packages.join(' ');
  say(`no native addon: building it needs ${names}. To install them and build it, run ${setUpCommand()}`);
}

/** In a clone. Without its development packages (npm ci --omit=dev) there is nothing to compile with, and nothing is. */
async function prepare(options) {
  if (!existsSync(join(ROOT, 'node_modules/.bin/tsc'))) return;
  await makeParts(['ts'], options);
  copyHeaders();
}

/** In a clone, which may be a fresh one: what goes along is the same in any. */
async function pack(options) {
  await makeParts(['npm', 'ts'], options);
  copyHeaders();
}

export const NPM_EVENTS = { install, prepare, pack };
