// npm packages, and the headers of Node's API that two of them bring.

import { copyFileSync, existsSync, lstatSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { IS_CLONE, onPath, ROOT, replaceFolder, runStep, SetupError, STAMPS } from './setup-tools.mjs';

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
export function isNpmCurrent() {
  const isLink = lstatSync(join(ROOT, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink();
  return isLink || npmIsCurrent();
}

/** `npm ci` empties its folder first, so it works in one beside, which then takes the other's place. */
export async function setUpNpm() {
  const [command, ...before] = npmCommand();
  // Both kinds are needed to build, whatever NODE_ENV or npm's configuration leave out by default.
  // No package of ours needs its scripts, and our own would find nothing where this works.
  const args = [
    ...before,
    'ci',
    '--include=dev',
    '--include=optional',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
  ];
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

/** Where the build looks for them, and the packed package has them. */
const HEADERS = join(ROOT, 'native/node-api');

/** Pairs of a file in node_modules and its copy. */
function headerCopies() {
  const copies = (from, names, to = (name) => name) =>
    names.map((name) => [join(ROOT, 'node_modules', from, name), join(HEADERS, to(name))]);
  const licence = (from) => (name) => `${name.split('.')[0]}-${from}`;
  return [
    ...copies('node-addon-api', ['napi.h', 'napi-inl.h', 'napi-inl.deprecated.h']),
    ...copies('node-addon-api', ['LICENSE.md'], licence('node-addon-api')),
    ...copies('node-api-headers/include', [
      'node_api.h',
      'node_api_types.h',
      'js_native_api.h',
      'js_native_api_types.h',
    ]),
    ...copies('node-api-headers', ['LICENSE'], licence('node-api-headers')),
  ];
}

/** Some are there and are not those of the packages any more. */
export function areHeadersStale() {
  return headerCopies().some(
    ([from, to]) => existsSync(from) && existsSync(to) && !readFileSync(from).equals(readFileSync(to)),
  );
}

/** An installed package has the copies, and nothing to copy them from. */
export function copyHeaders() {
  if (!IS_CLONE) return;
  mkdirSync(HEADERS, { recursive: true });
  for (const [from, to] of headerCopies()) {
    if (!existsSync(from)) throw new SetupError(`${from} is not there: run npm run setup`);
    // What is the same keeps its time, so that nothing is compiled again for it.
    if (!existsSync(to) || !readFileSync(from).equals(readFileSync(to))) copyFileSync(from, to);
  }
}
