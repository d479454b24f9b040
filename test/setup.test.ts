// The set-up script against a toy project and fake programs: what runs when, what is told, and what is repaired.

import { spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  lstatSync,
  readFileSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { HANG_MS } from './helpers/hang.js';
import {
  APT_INSTALL,
  AS_USER,
  BUILD,
  BUILT,
  CMAKE,
  Machine,
  NATIVE,
  NPM_CI,
  TSC,
} from './helpers/setup-machine.js';

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
});

describe('a fresh machine', () => {
  it('gets all that is missing, in order, and nothing the second time', async () => {
    const first = await machine.run();
    expect(first.output).toMatch(/ready in/);
    expect(first.status).toBe(0);
    const all = ['apt-get update', APT_INSTALL, NPM_CI, CMAKE, ...TSC];
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
    expect(machine.has('.setup')).toBe(false);
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

  it.each([
    [
      'a Node that is too old',
      "process,'versions',{value:{node:'18.19.0'}}",
      'Node 18.19.0 is too old: install Node 20',
    ],
    ['another system', "process,'platform',{value:'darwin'}", 'darwin is not supported'],
    ['another processor', "process,'arch',{value:'arm64'}", 'arm64 is not supported'],
    [
      'another C library',
      "process,'report',{value:{getReport:()=>({header:{}})}}",
      'this system has another C library than glibc',
    ],
  ])('is refused in a sentence with %s', async (_, property, sentence) => {
    const { status, output } = await machine.run(
      [],
      `data:text/javascript,Object.defineProperty(${property})`,
    );
    expect(status).toBe(1);
    expect(output).toContain(`setup: ${sentence}`);
    expect(output.split('\n')).toHaveLength(2);
    expect(machine.calls()).toEqual([]);
  });

  it('is asked by a file that any Node can read, and that imports nothing before it has looked', () => {
    const entry = readFileSync(join(NATIVE, 'setup.mjs'), 'utf8');
    expect(entry).not.toMatch(/^import|\?\.|\?\?|^\s*await /m);
  });
});

describe('a machine that was set up', () => {
  beforeEach(() => machine.ready());

  it.each([
    ['native/core/memory.cc', [CMAKE]],
    ['native/CMakeLists.txt', [CMAKE]],
    ['src/main.ts', TSC],
    ['src/server/page/main.ts', TSC],
    ['tsconfig.json', TSC],
    ['src/server/page/tsconfig.json', TSC],
    ['native/program.config.mjs', TSC],
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

  it.each(['dist/src/main.js', 'dist/src/server/page/main.js', 'dist/src/program/start.js'])(
    'makes %s again',
    async (path) => {
      machine.remove(path);
      expect(await machine.run()).toMatchObject({ status: 0 });
      expect(machine.calls()).toEqual(TSC);
      expect(machine.has(path)).toBe(true);
    },
  );

  it('repairs what was deleted', async () => {
    machine.remove('dist/src/main.js');
    machine.remove(BUILT);
    machine.remove('node_modules');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([NPM_CI, CMAKE, ...TSC]);
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
    machine.write('native/building/old-object', '');
    machine.silentProgram(
      'bin/c++',
      'case "$1" in -print*) echo /usr/lib/liburing.a;; *) echo "c++ 13";; esac',
    );
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
    expect(machine.has('native/building/old-object')).toBe(false);
  });

  it('runs only the part it is asked for', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
    appendFileSync(join(machine.root, 'src/main.ts'), '// more\n');
    expect(await machine.run(['--only', 'ts'])).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(TSC);
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
    machine.write('native/building/object', '');
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
    expect(machine.calls()).toEqual([CMAKE]);
    expect(machine.has('native/building/object')).toBe(true);
  });

  it('is not taken for done while its sources stay as they are', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), 'broken\n');
    machine.buildTool('exit 1');
    expect(await machine.run()).toMatchObject({ status: 1 });
    expect(await machine.run()).toMatchObject({ status: 1 });
  });

  it('by interruption says so, and starts from scratch the next time', async () => {
    appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
    machine.write('native/building/half-an-object', '');
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
    expect(machine.calls()).toEqual([CMAKE]);
    expect(machine.has('native/building/half-an-object')).toBe(false);
  });
});

describe('what is there', () => {
  beforeEach(() => machine.ready());
  const change = () => appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');

  it('stays as it was while its successor is made, and when that fails', async () => {
    const before = machine.read(BUILT);
    change();
    machine.buildTool(`[ -f ${BUILT} ] && exit 1; exit 2`);
    const { status, output } = await machine.run();
    expect([status, output]).toEqual([1, expect.stringContaining('failed with status 1')]);
    expect(machine.read(BUILT)).toBe(before);
  });

  it('stays when its successor cannot be loaded, and it is said why', async () => {
    const before = machine.read(BUILT);
    change();
    machine.buildTool(
      '/bin/mkdir -p native/building/Release && echo text > native/building/Release/zero_inference.node',
    );
    const { status, output } = await machine.run();
    expect([status, output]).toEqual([
      1,
      expect.stringMatching(/the new addon cannot be loaded: .*(header|short)/),
    ]);
    expect(machine.read(BUILT)).toBe(before);
  });

  it('is built anew where it cannot be loaded', async () => {
    machine.write(BUILT, 'half of it');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
    expect((await machine.run()).output).toContain('nothing to do');
  });

  it('is kept of packages and scripts as well, when npm or tsc fail', async () => {
    machine.writeLockfile('1.0.1');
    machine.program('npm', `/bin/mkdir node_modules; exit 1`);
    expect(await machine.run()).toMatchObject({ status: 1 });
    expect(machine.has('node_modules/.bin/tsc')).toBe(true);
    machine.writeLockfile('1.0.0');
    machine.write('src/more.ts', '// more\n');
    machine.program('../node_modules/.bin/tsc', 'echo > dist.new/half; exit 2');
    expect(await machine.run()).toMatchObject({ status: 1 });
    expect(machine.has('dist/src/main.js')).toBe(true);
    expect(machine.has('dist/half')).toBe(false);
  });

  it('can be run through a link, also after a rebuild', async () => {
    const mode = () => statSync(join(machine.root, 'dist/src/main.js')).mode & 0o777;
    expect(mode()).toBe(0o755);
    machine.write('src/more.ts', '// more\n');
    await machine.run();
    expect(mode()).toBe(0o755);
    chmodSync(join(machine.root, 'dist/src/main.js'), 0o644);
    await machine.run();
    expect(mode()).toBe(0o755);
  });

  it('is enough in a folder that cannot be written, and where it is not, that is a sentence', async () => {
    const readOnly = `data:text/javascript,import fs from 'node:fs';import {syncBuiltinESMExports as s} from 'node:module';fs.mkdirSync=()=>{throw Object.assign(new Error("EROFS: read-only file system, mkdir '.setup'"),{code:'EROFS',syscall:'mkdir'})};s()`;
    expect((await machine.run([], readOnly)).output).toContain('nothing to do');
    change();
    const { status, output } = await machine.run([], readOnly);
    expect([status, output]).toEqual([
      1,
      expect.stringMatching(/there is something to do, but .* cannot be written: EROFS/),
    ]);
  });
});

describe('two at once', () => {
  it('do the work once', async () => {
    machine.installDebianPackages();
    const outcomes = await Promise.all([machine.run(), machine.run()]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual([0, 0]);
    expect(machine.calls()).toEqual([NPM_CI, CMAKE, ...TSC]);
  });

  it('do not wait for a process that is gone', async () => {
    machine.installDebianPackages();
    const gone = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => gone.on('close', resolve));
    machine.write('.setup/lock', `${gone.pid}`);
    expect(await machine.run()).toMatchObject({ status: 0 });
  });

  it('wait for each other, and say for whom', async () => {
    await machine.ready();
    appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
    machine.buildTool(`while [ ! -f go ]; do /bin/sleep 0.05; done; ${BUILD}`);
    const first = machine.start();
    while (!machine.has('calls')) await new Promise((resolve) => setTimeout(resolve, 10));
    const second = machine.start();
    const told = new Promise<string>((resolve) =>
      second.child.stderr?.once('data', (chunk) => resolve(String(chunk))),
    );
    expect(await told).toContain(`waiting for the set-up of process ${first.child.pid}`);
    machine.write('go', '');
    expect(await first.outcome).toMatchObject({ status: 0 });
    expect(await second.outcome).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
  });
});

describe('an interruption', () => {
  beforeEach(() => machine.ready());

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'by %s ends also a program that takes no notice, and all that it started',
    async (signal) => {
      const before = machine.read(BUILT);
      appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');
      machine.calls();
      machine.buildTool(`trap '' INT TERM HUP; /bin/sleep 60 & echo $! > sleeper; wait; wait`);
      const { child, outcome } = machine.start();
      while (!machine.has('sleeper')) await new Promise((resolve) => setTimeout(resolve, 10));
      child.kill(signal);
      expect(await outcome).toMatchObject({ status: 130, output: expect.stringContaining('interrupted') });
      expect(machine.read(BUILT)).toBe(before);
      await vi.waitFor(
        () => expect(existsSync(`/proc/${machine.read('sleeper').trim()}/exe`)).toBe(false),
        HANG_MS,
      );
    },
  );
});
