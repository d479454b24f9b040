// What set-up does when npm installs, prepares or packs the package, on machines that can build it and on others.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { AS_ROOT, AS_USER, BUILT, CMAKE, Machine, NPM_CI, TSC } from './helpers/setup-machine.js';

let machine: Machine;
beforeEach(() => {
  machine = new Machine();
});
const npm = (event: string, preload = AS_ROOT) => machine.run(['--npm_event', event], preload);
const NOTHING = { status: 0, output: '' };

describe('an installation', () => {
  it('builds the addon where it can, once', async () => {
    machine.becomePackage();
    expect(await npm('install')).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
    expect(machine.has(BUILT)).toBe(true);
    expect(await npm('install')).toEqual(NOTHING);
  });

  it.each([
    ['a user', AS_USER],
    ['root', AS_ROOT],
  ])(
    'by %s without a compiler ends well, says the line, and installs no system packages',
    async (_, preload) => {
      machine.becomePackage();
      machine.remove('bin/c++');
      const { status, output } = await npm('install', preload);
      const line = `run node ${join(machine.root, 'native/setup.mjs')}`;
      expect([status, output]).toEqual([
        0,
        `setup: no native addon: building it needs g++ liburing-dev. To install them and build it, ${line}\n`,
      ]);
      expect(machine.calls()).toEqual([]);
      expect(machine.has('.setup')).toBe(false);
      // The line does it.
      expect(await machine.run()).toMatchObject({ status: 0 });
      expect(machine.has(BUILT)).toBe(true);
    },
  );

  it('ends well where the build fails, and shows why', async () => {
    machine.becomePackage();
    machine.buildTool('echo "memory.cc:2: broken" >&2; exit 1');
    const { status, output } = await npm('install');
    expect(status).toBe(0);
    expect(output).toMatch(/memory\.cc:2: broken[\s\S]*no native addon: .*When that is mended, run node \//);
  });

  it('ends well where GPUs are asked for that are not there', async () => {
    machine.becomePackage();
    const { status, output } = await npm('install', `${AS_ROOT};process.env.ZI_CUDA='native'`);
    expect([status, output]).toEqual([0, expect.stringContaining('no native addon: --cuda native')]);
    machine.prebuilt('1.0.0');
    expect(await npm('install', `${AS_ROOT};process.env.ZI_CUDA='native'`)).toEqual(NOTHING);
  });

  it('on a machine that it does not run on ends well', async () => {
    const onMac = "data:text/javascript,Object.defineProperty(process,'platform',{value:'darwin'})";
    const { status, output } = await npm('install', onMac);
    expect([status, output]).toEqual([0, expect.stringContaining('darwin is not supported')]);
  });

  it('builds nothing beside a ready-made addon of its version', async () => {
    machine.becomePackage();
    machine.prebuilt('1.0.0');
    expect(await npm('install')).toEqual(NOTHING);
    expect(machine.calls()).toEqual([]);
  });

  it.each([
    ['of another version', '1.0.1', undefined],
    ['that cannot be loaded', '1.0.0', 'half of it'],
  ])('builds one beside a ready-made addon %s', async (_, version, content) => {
    machine.becomePackage();
    const path = join(machine.root, 'half');
    if (content !== undefined) writeFileSync(path, content);
    machine.prebuilt(version, content === undefined ? undefined : path);
    expect(await npm('install')).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
  });

  it('of a clone builds the addon with the packages that npm has just installed', async () => {
    await machine.ready();
    machine.remove(BUILT);
    expect(await npm('install')).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
  });

  it('builds nothing in a clone that npm only makes a package of', async () => {
    machine.installDebianPackages();
    const forGit = "data:text/javascript,process.env._PACOTE_NO_PREPARE_=''";
    expect(await npm('install', forGit)).toEqual(NOTHING);
  });
});

describe('what npm prepares or packs', () => {
  it('is compiled anew where sources have changed, with the headers that the addon is built from', async () => {
    await machine.ready();
    machine.remove('native/node-api');
    machine.write('src/more.ts', '// more\n');
    expect(await npm('prepare')).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual(TSC);
    expect(machine.has('native/node-api/napi.h')).toBe(true);
    expect(await npm('prepare')).toEqual(NOTHING);
  });

  it('is left as it is without development packages', async () => {
    expect(await npm('prepare')).toEqual(NOTHING);
    expect(machine.calls()).toEqual([]);
  });

  it('needs nothing but a clean clone', async () => {
    expect(await npm('pack')).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([NPM_CI, ...TSC]);
    expect(machine.has('native/node-api/LICENSE-node-addon-api')).toBe(true);
  });

  it('holds no output of a source that is gone, whoever compiled it', async () => {
    await machine.ready();
    machine.write('dist/offload/old.js', '');
    expect(await npm('pack')).toMatchObject({ status: 0 });
    expect(machine.has('dist/offload/old.js')).toBe(false);
  });
});
