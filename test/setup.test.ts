// The set-up script against a toy project and fake programs: what runs when, what is told, and what is repaired.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';

const NATIVE = join(dirname(dirname(fileURLToPath(import.meta.url))), 'native');
const ROOTS = mkdtempSync(join(tmpdir(), 'zi-setup-'));
const AS_USER = 'data:text/javascript,process.getuid=()=>1000';
const AS_ROOT = 'data:text/javascript,process.getuid=()=>0';
const APT_INSTALL = 'apt-get install -y --no-install-recommends g++ cmake ninja-build liburing-dev';
const NPM_CI = 'npm ci --include=dev --include=optional --no-audit --no-fund';

afterAll(() => rmSync(ROOTS, { recursive: true, force: true }));

interface Outcome {
  readonly status: number | null;
  readonly output: string;
}

/** A project as a fresh clone has it, on a machine with Node, npm and apt-get, whose programs only say what they did. */
class Machine {
  readonly root = mkdtempSync(join(ROOTS, 'project-'));
  private readonly bin = join(this.root, 'bin');

  constructor() {
    for (const name of ['setup.mjs', 'setup-tools.mjs']) {
      cpSync(join(NATIVE, name), join(this.root, 'native', name));
    }
    this.write('native/CMakeLists.txt', '# build\n');
    this.write('native/package.json', '{}\n');
    this.write('native/core/memory.cc', '// memory\n');
    this.write('offload/index.ts', '// offload\n');
    this.write('src/main.ts', '// main\n');
    this.write('tsconfig.json', '{}\n');
    this.writeLockfile('1.0.0');
    mkdirSync(this.bin);
    symlinkSync(process.execPath, join(this.bin, 'node'));
    symlinkSync('/usr/bin/env', join(this.bin, 'env'));
    // Installing makes the compiler and its friends appear.
    this.program('apt-get', `[ "$1" = update ] || /bin/cp -P ${this.root}/debian/* ${this.bin}/`);
    const installTools = `/bin/mkdir -p node_modules/.bin && /bin/cp ${this.root}/tools/* node_modules/.bin/`;
    this.program('npm', `${installTools} && /bin/cp package-lock.json node_modules/.package-lock.json`);
    this.silentProgram(
      'debian/c++',
      'case "$1" in -print*) echo /usr/lib/liburing.a;; *) echo "c++ 12";; esac',
    );
    this.silentProgram('debian/cmake', 'echo cmake 3.25');
    this.silentProgram('debian/ninja', 'exit 0');
    this.buildTool();
    const emit = `for f in src/*.ts offload/*.ts; do /bin/mkdir -p dist/\${f%/*}; : > dist/\${f%.ts}.js; done`;
    this.program('../tools/tsc', emit);
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
  }

  /** What cmake-js does when it is next installed or run. */
  buildTool(
    body = '/bin/mkdir -p native/build/Release && : > native/build/Release/zero_inference.node',
  ): void {
    this.program('../tools/cmake-js', body);
    if (this.has('node_modules/.bin')) this.program('../node_modules/.bin/cmake-js', body);
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
    return lines.map((line) => line.replace(/^(cmake-js build).*/, '$1'));
  }

  start(args: readonly string[] = [], preload = AS_ROOT): { child: ChildProcess; outcome: Promise<Outcome> } {
    const child = spawn(process.execPath, ['--import', preload, 'native/setup.mjs', ...args], {
      cwd: this.root,
      env: { PATH: this.bin },
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

  async ready(): Promise<void> {
    this.installDebianPackages();
    expect(await this.run()).toMatchObject({ status: 0 });
    this.calls();
  }
}

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
});

describe('a fresh machine', () => {
  it('gets all that is missing, in order, and nothing the second time', async () => {
    const first = await machine.run();
    expect(first.output).toMatch(/ready in/);
    expect(first.status).toBe(0);
    const all = ['apt-get update', APT_INSTALL, NPM_CI, 'cmake-js build', 'tsc -p tsconfig.json'];
    expect(machine.calls()).toEqual(all);
    const second = await machine.run();
    expect(second.output).toMatch(/^setup: nothing to do \([\d.]+ s\)\n$/);
    expect(second.status).toBe(0);
    expect(machine.calls()).toEqual([]);
  });

  it('is told the exact command when the user may not install', async () => {
    const { status, output } = await machine.run([], AS_USER);
    expect(status).toBe(1);
    expect(output).toContain(
      'sudo apt-get update && sudo apt-get install -y g++ cmake ninja-build liburing-dev',
    );
    expect(output).not.toContain('    at ');
    expect(machine.calls()).toEqual([]);
  });

  it('uses sudo where it asks for no password', async () => {
    machine.silentProgram('bin/sudo', `shift; [ "$1" = true ] || exec "$@"`);
    expect(await machine.run([], AS_USER)).toMatchObject({ status: 0 });
    expect(machine.calls().slice(0, 2)).toEqual(['apt-get update', APT_INSTALL]);
  });

  it('without apt-get is told what to install', async () => {
    machine.remove('bin/apt-get');
    const { status, output } = await machine.run();
    expect(status).toBe(1);
    expect(output).toContain('g++ cmake ninja-build liburing-dev');
  });

  it('gets only the packages it lacks, and make will do for ninja', async () => {
    machine.installDebianPackages();
    machine.remove('bin/ninja');
    machine.silentProgram('bin/make', 'exit 0');
    machine.silentProgram('bin/c++', 'case "$1" in --version) echo "c++ 12";; *) exit 1;; esac');
    expect(await machine.run(['--only', 'system'])).toMatchObject({ status: 0 });
    expect(machine.calls()[1]).toBe('apt-get install -y --no-install-recommends liburing-dev');
  });

  it('goes on when only the list of packages could not be refreshed', async () => {
    machine.program(
      'apt-get',
      `[ "$1" = install ] && /bin/cp -P ${machine.root}/debian/* ${machine.root}/bin/`,
    );
    expect(await machine.run(['--only', 'system'])).toMatchObject({ status: 0 });
  });

  it('is refused when its Node is too old', async () => {
    const old = `data:text/javascript,Object.defineProperty(process,'versions',{value:{node:'18.19.0'}})`;
    const { status, output } = await machine.run([], old);
    expect(status).toBe(1);
    expect(output).toContain('Node 18.19.0 is too old: install Node 20 or later');
  });
});

describe('a machine that was set up', () => {
  beforeEach(() => machine.ready());

  it.each([
    ['native/core/memory.cc', ['cmake-js build']],
    ['native/CMakeLists.txt', ['cmake-js build']],
    ['src/main.ts', ['tsc -p tsconfig.json']],
    ['tsconfig.json', ['tsc -p tsconfig.json']],
    ['native/README.md', []],
  ])('after a change of %s runs %j', async (path, expected) => {
    appendFileSync(join(machine.root, path), '// more\n');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(expected);
  });

  it('after another lockfile installs its packages', async () => {
    machine.writeLockfile('1.0.1');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()[0]).toBe(NPM_CI);
  });

  it('repairs what was deleted', async () => {
    machine.remove('dist/src/main.js');
    machine.remove('native/build/Release/zero_inference.node');
    machine.remove('node_modules');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([NPM_CI, 'cmake-js build', 'tsc -p tsconfig.json']);
  });

  it('keeps no output of a source that is gone', async () => {
    machine.write('src/old.ts', '// old\n');
    await machine.run();
    expect(machine.has('dist/src/old.js')).toBe(true);
    machine.remove('src/old.ts');
    await machine.run();
    expect(machine.has('dist/src/old.js')).toBe(false);
    expect(machine.has('dist/src/main.js')).toBe(true);
  });

  it('needs no compiler any more', async () => {
    machine.remove('bin/c++');
    expect((await machine.run()).output).toContain('nothing to do');
    expect(machine.calls()).toEqual([]);
  });

  it('builds anew for another compiler', async () => {
    machine.write('native/build/old-object', '');
    machine.silentProgram(
      'bin/c++',
      'case "$1" in -print*) echo /usr/lib/liburing.a;; *) echo "c++ 13";; esac',
    );
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(['cmake-js build']);
    expect(machine.has('native/build/old-object')).toBe(false);
  });

  it('runs only the part it is asked for', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
    appendFileSync(join(machine.root, 'src/main.ts'), '// more\n');
    expect(await machine.run(['--only', 'ts'])).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(['tsc -p tsconfig.json']);
    expect(await machine.run(['--only', 'everything'])).toMatchObject({ status: 2 });
  });

  it('leaves packages behind a link alone', async () => {
    machine.remove('node_modules');
    symlinkSync('/nonexistent', join(machine.root, 'node_modules'));
    expect((await machine.run(['--only', 'npm'])).output).toContain('nothing to do');
    expect(lstatSync(join(machine.root, 'node_modules')).isSymbolicLink()).toBe(true);
  });
});

describe('a build that fails', () => {
  beforeEach(() => machine.ready());

  it('shows its output in full, and after the mend builds on', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), 'broken\n');
    machine.write('native/build/object', '');
    machine.buildTool('echo "memory.cc:2: first"; echo "memory.cc:2: last" >&2; exit 1');
    const { status, output } = await machine.run();
    expect(status).toBe(1);
    expect(output).toContain('memory.cc:2: first');
    expect(output).toContain('memory.cc:2: last');
    expect(output).toContain('.setup/native-addon.log');
    expect(output).not.toContain('    at ');
    machine.calls();
    machine.buildTool();
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(['cmake-js build']);
    expect(machine.has('native/build/object')).toBe(true);
  });

  it('is not taken for done while its sources stay as they are', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), 'broken\n');
    machine.buildTool('exit 1');
    expect(await machine.run()).toMatchObject({ status: 1 });
    expect(await machine.run()).toMatchObject({ status: 1 });
  });

  it('by interruption says so, and starts from scratch the next time', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
    machine.write('native/build/half-an-object', '');
    machine.buildTool('exec /bin/sleep 60');
    machine.calls();
    const { child, outcome } = machine.start();
    while (!machine.has('calls')) await new Promise((resolve) => setTimeout(resolve, 10));
    child.kill('SIGINT');
    const { status, output } = await outcome;
    expect(output).toContain('interrupted during: native addon');
    expect(status).toBe(130);
    machine.calls();
    machine.buildTool();
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(['cmake-js build']);
    expect(machine.has('native/build/half-an-object')).toBe(false);
  });
});

describe('two at once', () => {
  it('do the work once', async () => {
    machine.installDebianPackages();
    const outcomes = await Promise.all([machine.run(), machine.run()]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual([0, 0]);
    expect(machine.calls()).toEqual([NPM_CI, 'cmake-js build', 'tsc -p tsconfig.json']);
  });

  it('do not wait for a process that is gone', async () => {
    machine.installDebianPackages();
    const gone = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => gone.on('close', resolve));
    machine.write('.setup/lock', `${gone.pid}`);
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.has('.setup/lock')).toBe(false);
  });
});
