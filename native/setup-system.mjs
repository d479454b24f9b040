// System packages: what the native build needs, and who may install it.

import { capture, compiler, onPath, PATH, runStep, SetupError } from './setup-tools.mjs';

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
export function missingPackages() {
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

/**
 * Why the packages cannot be installed by us, with the line that installs them, or undefined. Asked before anything is
 * changed, so that who has to fetch the administrator first finds all as it was.
 */
export function whoMustInstall(packages) {
  if (packages.length === 0 || (onPath('apt-get') && rootPrefix() !== undefined)) return undefined;
  const names = packages.join(' ');
  if (onPath('apt-get')) {
    return `missing system packages. Run this, then try again:\n\n  sudo apt-get update && sudo apt-get install -y ${names}\n`;
  }
  return (
    `the native build needs a C++20 compiler, cmake, make or ninja, and liburing with its headers. Install what ` +
    `Debian calls ${names} with this system's package manager, then run this again`
  );
}

export async function setUpSystem() {
  const packages = missingPackages();
  const refusal = whoMustInstall(packages);
  if (refusal !== undefined) throw new SetupError(refusal);
  if (packages.length === 0) return;
  const prefix = rootPrefix();
  const names = packages.join(' ');
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
