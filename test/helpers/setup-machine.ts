// A toy project on a toy machine, for tests of set-up: fake programs that only say what they did.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { tempFolder } from './temp-folder.js';

export const NATIVE = join(fileURLToPath(new URL('../../', import.meta.url)), 'native');
const SCRIPTS = readdirSync(NATIVE).filter((name) => /^setup.*\.mjs$|\.config\.mjs$/.test(name));
const ROOTS = tempFolder();
/** Something that Node loads as an addon. */
const ADDON = join(ROOTS, 'toy.node');
const TOY = 'void *napi_register_module_v1(void *env, void *exports) { (void)env; return exports; }';

/** Files of tests may share a process and this module, and the first of them that ends takes its folders with it. */
function newRoot(): string {
  if (!existsSync(ADDON)) {
    mkdirSync(ROOTS, { recursive: true });
    execFileSync('cc', ['-shared', '-fPIC', '-x', 'c', '-o', ADDON, '-'], { input: TOY });
  }
  return mkdtempSync(join(ROOTS, 'project-'));
}

/** The name of the section that nvcc leaves in a library. */
const GPU_PART = '.nv_fatbin';
/** What cmake leaves: something that loads. */
export const BUILD = `/bin/mkdir -p native/building/Release && /bin/cp ${ADDON} native/building/Release/zero_inference.node`;
/** The same with a GPU part, if that was asked for. */
export const GPU_BUILD = `${BUILD} && case "$(/bin/cat configured)" in *ARCHITECTURES=OFF*) ;; *ARCHITECTURES=?*) echo ${GPU_PART} >> native/building/Release/zero_inference.node;; esac`;
export const BUILT = 'native/build/Release/zero_inference.node';
export const AS_USER = 'data:text/javascript,process.getuid=()=>1000';
export const AS_ROOT = 'data:text/javascript,process.getuid=()=>0';
export const APT_INSTALL = 'apt-get install -y --no-install-recommends g++ cmake ninja-build liburing-dev';
export const CMAKE = 'cmake --build';
/** What runs in Node, and the page, which runs in browsers; then the program in few files. */
export const TSC = [
  ...['tsconfig.json', 'src/server/page/tsconfig.json'].map((path) => `tsc -p ${path} --outDir dist.new`),
  'rolldown -c native/program.config.mjs --dir dist.new/src',
];
export const NPM_CI = 'npm ci --include=dev --include=optional --ignore-scripts --no-audit --no-fund';

/** Files of the two packages that bring Node's API. */
const HEADERS = [
  ...['napi.h', 'napi-inl.h', 'napi-inl.deprecated.h', 'LICENSE.md'].map((name) => `node-addon-api/${name}`),
  ...['node_api.h', 'node_api_types.h', 'js_native_api.h', 'js_native_api_types.h'].map(
    (name) => `node-api-headers/include/${name}`,
  ),
  'node-api-headers/LICENSE',
];

export interface Outcome {
  readonly status: number | null;
  readonly output: string;
}

/** A project as a fresh clone has it, on a machine with Node, npm and apt-get, whose programs only say what they did. */
export class Machine {
  readonly root = newRoot();
  private readonly bin = join(this.root, 'bin');

  constructor() {
    for (const name of SCRIPTS) {
      cpSync(join(NATIVE, name), join(this.root, 'native', name));
    }
    this.write('native/CMakeLists.txt', '# build\n');
    this.write('native/core/memory.cc', '// memory\n');
    this.write('offload/index.ts', '// offload\n');
    this.write('src/main.ts', '// main\n');
    this.write('src/server/page/main.ts', '// page\n');
    for (const folder of ['.', 'src/server/page']) this.write(join(folder, 'tsconfig.json'), '{}\n');
    this.writeLockfile('1.0.0');
    mkdirSync(this.bin);
    symlinkSync(process.execPath, join(this.bin, 'node'));
    symlinkSync('/usr/bin/env', join(this.bin, 'env'));
    symlinkSync('/usr/bin/flock', join(this.bin, 'flock'));
    // Installing makes the compiler and its friends appear.
    this.program('apt-get', `[ "$1" = update ] || /bin/cp -P ${this.root}/debian/* ${this.bin}/`);
    for (const path of HEADERS) this.write(join('packages', path), `${path} 1.0.0\n`);
    const installTools = `/bin/mkdir -p node_modules/.bin && /bin/cp ${this.root}/tools/* node_modules/.bin/ && /bin/cp -R ${this.root}/packages/* node_modules/`;
    this.program('npm', `${installTools} && /bin/cp package-lock.json node_modules/.package-lock.json`);
    this.silentProgram(
      'debian/c++',
      'case "$1" in -print*) echo /usr/lib/liburing.a;; *) echo "c++ 12";; esac',
    );
    this.silentProgram('debian/ninja', 'exit 0');
    this.buildTool();
    this.silentProgram(
      'tools/cmake-js',
      'case "$1" in configure) exec cmake -S $(echo "$@" | /bin/sed "s/--CD[A-Z_]*= *$//; s/--CD/-D/g");; build) exec cmake --build;; esac',
    );
    const sources = `case $2 in tsconfig.json) set -- src/*.ts offload/*.ts;; *) set -- \${2%/*}/*.ts;; esac`;
    const emit = `out=$4; ${sources}; for f; do /bin/mkdir -p $out/\${f%/*}; : > $out/\${f%.ts}.js; done`;
    this.program('../tools/tsc', emit);
    this.program('../tools/rolldown', '/bin/mkdir -p $4/program; : > $4/program/start.js');
  }

  write(path: string, text: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    writeFileSync(join(this.root, path), text);
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), 'utf8');
  }

  has(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true });
  }

  writeLockfile(version: string): void {
    const packages = {
      '': { name: 'toy' },
      'node_modules/tool': { version, integrity: `sha512-${version}` },
    };
    this.write('package-lock.json', JSON.stringify({ packages }));
    this.write('package.json', JSON.stringify({ name: 'toy', bin: { toy: 'dist/src/main.js' } }));
  }

  /** What cmake does when it next builds; how it was last configured lies in `configured`. */
  buildTool(body = BUILD): void {
    const build = `echo "cmake --build" >> ${this.root}/calls\n${body}`;
    const cases = `--version) echo cmake 3.25;; -S) echo "$*" > configured;; --build) ${build};;`;
    this.silentProgram('debian/cmake', `case "$1" in ${cases} esac`);
    if (this.has('bin/cmake')) this.silentProgram('bin/cmake', this.read('debian/cmake'));
  }

  /** A program that notes its call; `path` is relative to bin/. */
  program(path: string, body: string): void {
    const name = path.split('/').at(-1);
    this.silentProgram(join('bin', path), `echo "${name} $*" >> ${this.root}/calls\n${body}`);
  }

  silentProgram(path: string, body: string): void {
    this.write(path, `#!/bin/sh\n${body}\n`);
    chmodSync(join(this.root, path), 0o755);
  }

  installDebianPackages(): void {
    execFileSync('/bin/sh', ['-c', `/bin/cp -P ${this.root}/debian/* ${this.bin}/`]);
  }

  /** The calls since the last look. */
  calls(): string[] {
    const lines = this.has('calls') ? this.read('calls').trim().split('\n') : [];
    if (lines.length > 0) this.remove('calls');
    return lines;
  }

  start(args: readonly string[] = [], preload = AS_ROOT): { child: ChildProcess; outcome: Promise<Outcome> } {
    const child = spawn(process.execPath, ['--import', preload, 'native/setup.mjs', ...args], {
      cwd: this.root,
      env: { PATH: this.bin, CUDA_PATH: '/nonexistent' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      output += chunk;
    });
    const outcome = new Promise<Outcome>((resolve) =>
      child.on('close', (status, signal) => resolve({ status, output: output + (signal ?? '') })),
    );
    return { child, outcome };
  }

  run(args: readonly string[] = [], preload = AS_ROOT): Promise<Outcome> {
    return this.start(args, preload).outcome;
  }

  /** As npm lays an installed package, with a compiler on the machine. */
  becomePackage(): void {
    this.installDebianPackages();
    for (const path of ['tsconfig.json', 'src', 'offload', 'package-lock.json']) this.remove(path);
    this.write('package.json', JSON.stringify({ name: 'toy', version: '1.0.0' }));
  }

  /** The package with a ready-made addon, which Node finds in the folders above. */
  prebuilt(version: string, addon = ADDON): void {
    const folder = 'node_modules/@zero-inference/linux-x64';
    this.write(`${folder}/package.json`, JSON.stringify({ version }));
    cpSync(addon, join(this.root, folder, 'zero_inference.node'));
  }

  /** What nvidia-smi tells of compute capabilities, and an nvcc if there are any. */
  gpus(...capabilities: string[]): void {
    this.silentProgram('bin/nvidia-smi', `/usr/bin/printf '%s\\n' ${capabilities.join(' ')}`);
    this.silentProgram('bin/nvcc', 'echo nvcc 13');
    this.buildTool(GPU_BUILD);
  }

  /** What the last build compiled for GPUs, as CMake was told. */
  compiledFor(): string | undefined {
    return /-DZI_CUDA_ARCHITECTURES=(\S+)/.exec(this.read('configured'))?.[1]?.replace('OFF', '');
  }

  async ready(...args: string[]): Promise<void> {
    this.installDebianPackages();
    expect(await this.run(args)).toMatchObject({ status: 0 });
    this.calls();
  }
}
