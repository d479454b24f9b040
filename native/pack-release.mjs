// Makes what is published: the addon for this platform as a package of its own, and the main package that asks for it.
// usage: node native/pack-release.mjs [--cuda all|none]     (after npm run setup; on the oldest system that is supported)
//
// Both come from one run, because the main package may only name a package that exists: whoever registered a name that
// nobody has published could have their own code run wherever ours is installed. So the repository itself names none.

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { ADDON_NAME, PREBUILT } from './setup-prebuilt.mjs';
import { ROOT } from './setup-tools.mjs';

const { cuda } = parseArgs({ options: { cuda: { type: 'string', default: 'all' } } }).values;
const OUT = join(ROOT, 'out/release');
const BUILD = join(OUT, 'build');
/** What every machine has that runs Node on Linux with glibc; liburing and the CUDA runtime are linked in. */
const SYSTEM_LIBRARIES =
  /^(lib(c|m|gcc_s|stdc\+\+)\.so\.\d|lib(dl|pthread|rt)\.so\.\d|ld-linux-x86-64\.so\.2)$/;
/** The newest versions of what they export that may be needed: the systems that README.md names have them, and Ubuntu 22.04. */
const NEWEST = { GLIBC: '2.35', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '7.0.0' };
const NOTICE = `The addon in this package has linked in:
- liburing, under the MIT licence
- node-addon-api and node-api-headers, under the MIT licence
${cuda === 'none' ? '' : '- the CUDA runtime, under the licence of the NVIDIA CUDA Toolkit, which permits its redistribution\n'}`;

function run(command, ...args) {
  execFileSync(command, args, { cwd: ROOT, stdio: ['ignore', 2, 2] });
}

function read(command, ...args) {
  return execFileSync(command, args, { cwd: ROOT, encoding: 'utf8' });
}

function build() {
  const none = cuda === 'none' ? ['-DZI_CUDA_ARCHITECTURES='] : [];
  run('cmake', '-S', 'native', '-B', BUILD, '-DCMAKE_BUILD_TYPE=Release', '-DZI_PORTABLE=ON', ...none);
  run('cmake', '--build', BUILD, '--parallel', `${availableParallelism()}`);
  return join(BUILD, 'Release', ADDON_NAME);
}

const byVersion = (a, b) => a.localeCompare(b, 'en', { numeric: true });

/** Throws where other machines would miss something. */
function check(addon) {
  const dynamic = read('objdump', '-p', addon);
  const needed = [...dynamic.matchAll(/NEEDED\s+(\S+)/g)].map(([, name]) => name);
  const others = needed.filter((name) => !SYSTEM_LIBRARIES.test(name));
  if (others.length > 0) throw new Error(`the addon needs ${others.join(', ')}, which not every system has`);
  const newest = Object.entries(NEWEST).map(([name, limit]) => {
    const all = [...dynamic.matchAll(new RegExp(`\\b${name}_([0-9.]+)`, 'g'))].map(([, version]) => version);
    const version = all.sort(byVersion).at(-1) ?? '0';
    if (byVersion(version, limit) > 0)
      throw new Error(`the addon needs ${name} ${version}: build it on an older system`);
    return `${name} ${version}`;
  });
  const hasCuda = readFileSync(addon).includes('.nv_fatbin');
  if (hasCuda !== (cuda !== 'none'))
    throw new Error('there is no nvcc (--cuda none leaves the GPU part out)');
  run(process.execPath, '-e', `process.dlopen({ exports: {} }, ${JSON.stringify(addon)})`);
  return `needs ${newest.join(', ')}`;
}

function npmPack(folder, ...more) {
  const [{ filename, size }] = JSON.parse(
    read('npm', 'pack', folder, '--json', '--pack-destination', OUT, ...more),
  );
  return { path: join(OUT, filename), size };
}

function tell({ path, size }, more) {
  process.stdout.write(`${relative(process.cwd(), path)}: ${(size / 1e6).toFixed(1)} MB; ${more}\n`);
}

const own = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
rmSync(join(OUT, 'packages'), { recursive: true, force: true });

function packAddon() {
  const addon = build();
  const facts = check(addon);
  const folder = join(OUT, 'packages/addon');
  mkdirSync(folder, { recursive: true });
  copyFileSync(addon, join(folder, ADDON_NAME));
  copyFileSync(join(ROOT, 'LICENSE'), join(folder, 'LICENSE'));
  writeFileSync(join(folder, 'NOTICE'), NOTICE);
  writeFileSync(
    join(folder, 'README.md'),
    `# ${PREBUILT}\n\nThe native addon of zero-inference, which asks for it.\n`,
  );
  const { version, license, engines } = own;
  const description = 'The native addon of zero-inference for Linux with glibc on x86-64';
  const platform = { os: ['linux'], cpu: ['x64'], libc: ['glibc'] };
  const json = {
    name: PREBUILT,
    version,
    description,
    license,
    ...platform,
    engines,
    files: [ADDON_NAME, 'NOTICE'],
  };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(json, null, 2)}\n`);
  tell(npmPack(folder), facts);
}

/** The same package as `npm pack` makes, but for the line that has npm fetch the addon as well. */
function packMain() {
  const folder = join(OUT, 'packages/main');
  mkdirSync(folder, { recursive: true });
  const { path } = npmPack(ROOT);
  run('tar', '-xzf', path, '-C', folder, '--strip-components=1');
  const json = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const withAddon = { ...json, optionalDependencies: { [PREBUILT]: json.version } };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(withAddon, null, 2)}\n`);
  tell(npmPack(folder, '--ignore-scripts'), `asks for ${PREBUILT} ${json.version}`);
}

packAddon();
packMain();
