// What npm packs, from a tree with all that may lie in one, and whether it runs where it is installed.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { modelFolder } from './helpers/fixtures.js';
import { tempFolder } from './helpers/temp-folder.js';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const PACKAGE = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly bin: Readonly<Record<string, string>>;
  readonly exports: { readonly '.': Readonly<Record<string, string>> };
};

/** Relative to `folder`, build products and headers of others left out. */
function filesBelow(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .filter((path) => !/^(build|building|node-api)\//.test(path));
}

const sourcesIn = (folder: string) =>
  filesBelow(join(ROOT, folder))
    .filter((path) => path.endsWith('.ts'))
    .map((path) => `${folder}/${path.replace(/\.ts$/, '')}`);
const SHIPPED = [...sourcesIn('src'), ...sourcesIn('offload')];
/** What the command runs: the modules in few files, which have no declarations. */
const PROGRAM = 'src/program/start';
/** What browsers get as it is. */
const PAGE = filesBelow(join(ROOT, 'src/server/page'))
  .filter((path) => /\.(html|css|svg)$/.test(path))
  .map((path) => `src/server/page/${path}`);
const NODE_API = [
  ...['napi.h', 'napi-inl.h', 'napi-inl.deprecated.h', 'node_api.h', 'node_api_types.h'],
  ...['js_native_api.h', 'js_native_api_types.h', 'LICENSE-node-addon-api', 'LICENSE-node-api-headers'],
];

/** A tree as it may be after builds, tests, releases and runs: whatever is no source here must stay at home. */
function usedTree(): string {
  const folder = tempFolder();
  const put = (path: string) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), '');
  };
  for (const name of readdirSync(ROOT)) {
    if (!/^(node_modules|dist.*|native|test|bench|src|offload|out|\..*)$/.test(name)) {
      cpSync(join(ROOT, name), join(folder, name), { recursive: true });
    }
  }
  const built = [...SHIPPED, ...sourcesIn('test'), ...sourcesIn('bench')];
  for (const path of built) for (const end of ['js', 'js.map', 'd.ts']) put(`dist/${path}.${end}`);
  for (const end of ['js', 'js.map']) put(`dist/${PROGRAM}.${end}`);
  for (const path of [...built, 'src/cli/notes']) put(`${path}.ts`);
  for (const path of filesBelow(join(ROOT, 'native'))) put(`native/${path}`);
  for (const path of PAGE) put(path);
  for (const name of NODE_API) put(`native/node-api/${name}`);
  for (const path of [
    ...[
      'native/build/Release/zero_inference.node',
      'native/build/io-test-1/file',
      'native/building/build.ninja',
    ],
    ...[
      'native/building/CMakeFiles/CMakeScratch/a.cc',
      'native/cpu/kernels.cc.orig',
      'native/cuda/a.o',
      'native/x.tgz',
    ],
    ...[
      '.setup/native.json',
      '.ci/run',
      '.env',
      'dist.new/src/main.js',
      'out/release/a.tgz',
      'out.jsonl',
      'core.123',
    ],
    ...[
      'zero-inference-0.1.0.tgz',
      'test/fixtures/model.safetensors',
      'bench/results/a.json',
      'node_modules/a/index.js',
    ],
    ...[
      'configs/.DS_Store',
      'configs/models/.bloom.json.swp',
      'dist/tsconfig.tsbuildinfo',
      'dist/src/.main.js.swp',
    ],
  ]) {
    put(path);
  }
  return folder;
}

function npm(folder: string, ...args: string[]): string {
  return execFileSync('npm', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

function packedFiles(folder: string): string[] {
  const [packed] = JSON.parse(npm(folder, 'pack', '--dry-run', '--json', '--ignore-scripts')) as [
    { readonly files: readonly { readonly path: string }[] },
  ];
  return packed.files.map(({ path }) => path).sort();
}

describe('the package', () => {
  const files = packedFiles(usedTree());

  it('has what runs, what builds the addon, configurations and documents, and nothing else', () => {
    const native = filesBelow(join(ROOT, 'native')).filter((path) => !/^(?!setup).*\.mjs$/.test(path));
    const expected = [
      ...SHIPPED.flatMap((path) => [`dist/${path}.js`, `dist/${path}.d.ts`]),
      `dist/${PROGRAM}.js`,
      ...native.map((path) => `native/${path}`),
      ...NODE_API.map((name) => `native/node-api/${name}`),
      ...PAGE,
      ...filesBelow(join(ROOT, 'configs')).map((path) => `configs/${path}`),
      ...['package.json', 'README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'LICENSE'],
    ];
    expect(files).toEqual(expected.sort());
  });

  it('has every file that another names: imports, includes, commands and entries', () => {
    const has = (path: string) => files.includes(path);
    const missing: string[] = [];
    const need = (from: string, path: string) => has(path) || missing.push(`${from} names ${path}`);
    for (const path of [...Object.values(PACKAGE.bin), ...Object.values(PACKAGE.exports['.'])]) {
      need('package.json', path.replace(/^\.\//, ''));
    }
    const imported = /(?:\bfrom|\bimport\(?)\s*'(\.[^']+)'/g;
    for (const path of SHIPPED) {
      const text = readFileSync(join(ROOT, `${path}.ts`), 'utf8');
      for (const [, to = ''] of text.matchAll(imported)) need(path, join('dist', dirname(path), to));
    }
    for (const path of files.filter((name) => name.endsWith('.mjs'))) {
      const text = readFileSync(join(ROOT, path), 'utf8');
      for (const [, to = ''] of text.matchAll(imported)) need(path, join(dirname(path), to));
    }
    for (const path of files.filter((name) => /^native\/(?!node-api).*\.(cc|h|cu|cuh)$/.test(name))) {
      const text = readFileSync(join(ROOT, path), 'utf8');
      for (const [, to = ''] of text.matchAll(/^\s*#\s*include\s*"([^"]+)"/gm))
        need(path, join('native', to));
    }
    expect(missing).toEqual([]);
  });

  it('depends on the packages that it imports, and on no other', () => {
    const imported = SHIPPED.flatMap((path) => {
      const text = readFileSync(join(ROOT, `${path}.ts`), 'utf8');
      return [...text.matchAll(/(?:\bfrom|\bimport\(?)\s*'((?!node:)[@a-z][\w./@-]*)'/g)].map(
        ([, name = '']) => /^(@[^/]+\/)?[^/]+/.exec(name)?.[0],
      );
    });
    // pino loads it by its name.
    const named = [...imported, 'pino-pretty'];
    expect([...new Set(named)].sort()).toEqual(Object.keys(PACKAGE.dependencies).sort());
  });
});

/** Somebody's project with the packed package, its dependencies, and the addon as the package for this platform brings it. */
function project(): string {
  const folder = tempFolder();
  const modules = join(folder, 'node_modules');
  const own = join(modules, 'zero-inference');
  const prebuilt = join(modules, '@zero-inference/linux-x64');
  for (const path of [own, prebuilt, join(modules, '@types')]) mkdirSync(path, { recursive: true });
  const [packed] = JSON.parse(
    npm(ROOT, 'pack', '--json', '--ignore-scripts', '--pack-destination', folder),
  ) as [{ readonly filename: string }];
  execFileSync('tar', ['-xzf', join(folder, packed.filename), '-C', own, '--strip-components=1']);
  for (const name of [...Object.keys(PACKAGE.dependencies), '@types/node']) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(ROOT, 'node_modules', name), join(modules, name));
  }
  writeFileSync(join(prebuilt, 'package.json'), JSON.stringify({ version: PACKAGE.version }));
  cpSync(join(ROOT, 'native/build/Release/zero_inference.node'), join(prebuilt, 'zero_inference.node'));
  cpSync(join(ROOT, 'test/library/fresh-project'), folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{"name":"somebody-s"}');
  return folder;
}

describe('in somebody’s project the packed package, with a ready-made addon', () => {
  const folder = project();
  const run = (...args: string[]) => spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
  const COMMAND = 'node_modules/zero-inference/dist/src/main.js';
  const MODEL = modelFolder('shakespeare-bloom');
  const GENERATE = ['generate', '--device', 'cpu', '--name', MODEL, '--prompt', 'x', '--max_new_tokens', '2'];

  it('generates by its command', () => {
    const { status, stdout, stderr } = run(COMMAND, ...GENERATE, '--log_level', 'error');
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).not.toBe('');
  });

  it.each(['use.mjs', 'use.cjs'])('generates by %s', (name) => {
    const { status, stdout, stderr } = run(name, MODEL);
    // Node 20 and 22 warn of modules that are required.
    expect([status, stderr.replace(/^.*(ExperimentalWarning|--trace-warnings).*\n/gm, '')]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({ node: process.version });
  });

  it('has types that a strict project compiles with, and their errors', () => {
    const flags = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--skipLibCheck', 'false'];
    const target = ['--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,esnext.disposable'];
    const check = () =>
      spawnSync(join(ROOT, 'node_modules/.bin/tsc'), [...flags, ...target, '--types', 'node', 'use.ts'], {
        cwd: folder,
        encoding: 'utf8',
      });
    expect(check().stdout).toBe('');
    const text = readFileSync(join(folder, 'use.ts'), 'utf8');
    writeFileSync(join(folder, 'use.ts'), text.replaceAll('maxNewTokens', 'maxNewToken'));
    expect(check().stdout).toContain('maxNewToken');
  });

  it('refuses an addon of another version, and names both', () => {
    writeFileSync(join(folder, 'node_modules/@zero-inference/linux-x64/package.json'), '{"version":"9.9.9"}');
    const { status, stderr } = run(COMMAND, ...GENERATE);
    expect(stderr).toContain(
      `NOT_FOUND: @zero-inference/linux-x64 is of version 9.9.9, but zero-inference of ${PACKAGE.version}: install the same of both, or run`,
    );
    expect(status).toBe(3);
  });
});
