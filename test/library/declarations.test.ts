// The declarations that programs compile against: few files, which import nothing that is not installed and stand strict checks.

import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { tempFolder } from '../helpers/temp-folder.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(dirname(HERE));
const ENTRY = 'dist/src/index.d.ts';
const TSC = join(ROOT, 'node_modules/.bin/tsc');

/** What a file of declarations leads to, from the project's root; and what it imports that is no file. */
function reached(path: string, files = new Set<string>(), packages = new Set<string>()) {
  if (files.has(path)) return { files, packages };
  files.add(path);
  const text = readFileSync(join(ROOT, path), 'utf8');
  for (const [, specifier = ''] of text.matchAll(/(?:from|import\(|import)\s*['"]([^'"]+)['"]/g)) {
    if (!specifier.startsWith('.')) packages.add(specifier);
    else reached(join(dirname(path), specifier).replace(/\.js$/, '.d.ts'), files, packages);
  }
  for (const [, types = ''] of text.matchAll(/\/\/\/ <reference types="([^"]+)"/g)) packages.add(types);
  return { files, packages };
}

describe('declarations', () => {
  let project: string;
  beforeAll(() => {
    project = tempFolder();
    const installed = join(project, 'node_modules/zero-inference');
    mkdirSync(installed, { recursive: true });
    copyFileSync(join(ROOT, 'package.json'), join(installed, 'package.json'));
    for (const file of reached(ENTRY).files) cpSync(join(ROOT, file), join(installed, file));
    copyFileSync(join(HERE, 'fresh-project/use.ts'), join(project, 'use.ts'));
    writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
  });

  function compile(file: string, options: object = {}) {
    const compilerOptions = {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      noEmit: true,
      target: 'ES2022',
      module: 'NodeNext',
      types: [],
      ...options,
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }));
    const { status, stdout } = spawnSync(TSC, ['-p', project, '--pretty', 'false'], { encoding: 'utf8' });
    return { status, errors: stdout.split('\n').filter((line) => line.includes('error TS')) };
  }

  it('are those of the library and of errors alone, and import no package', () => {
    const { files, packages } = reached(ENTRY);
    expect([...files].map((file) => relative('dist', file)).sort()).toEqual([
      'offload/errors.d.ts',
      'src/index.d.ts',
      'src/library/open.d.ts',
      'src/library/types.d.ts',
    ]);
    expect([...packages]).toEqual([]);
  });

  it.each([
    ['with the types of browsers', { lib: ['ES2022', 'DOM', 'ESNext.Disposable'] }],
    [
      'resolved by a bundler',
      { module: 'ESNext', moduleResolution: 'bundler', lib: ['ES2022', 'DOM', 'ESNext.Disposable'] },
    ],
  ])('compile in a strict project without any dependency, %s', (_, options) => {
    expect(compile('use.ts', options)).toEqual({ status: 0, errors: [] });
  });

  it('compile with nothing but the language', () => {
    const code = `import { open, type Engine } from 'zero-inference';
      export const engine: Promise<Engine> = open('folder', { signal: undefined });`;
    writeFileSync(join(project, 'bare.ts'), code);
    expect(compile('bare.ts', { lib: ['ES2022'] })).toEqual({ status: 0, errors: [] });
  });

  it('refuse what is no option, no value of one, and what is not there', () => {
    const wrong: readonly (readonly [string, RegExp])[] = [
      ['open(3)', /not assignable to parameter of type 'string'/],
      ["open('a', { devise: 'cpu' })", /'devise' does not exist/],
      ["open('a', { device: 'gpu' })", /"gpu".*not assignable/],
      ["engine.generate('a', { maxNewToken: 1 })", /'maxNewToken' does not exist/],
      ["engine.generate({ tokens: 'a' })", /not assignable/],
      ["(await engine.generate('a').result).finishReason === 'error'", /no overlap/],
      ['engine.submit({})', /'submit' does not exist/],
    ];
    const lines = wrong.map(([expression], index) => `export const value${index} = ${expression};`);
    const prelude = "import { open } from 'zero-inference'; const engine = await open('a');";
    writeFileSync(join(project, 'wrong.ts'), [prelude, ...lines].join('\n'));
    const { errors } = compile('wrong.ts', { lib: ['ES2022'] });
    expect(errors).toHaveLength(wrong.length);
    wrong.forEach(([, message], index) => {
      expect(errors[index]).toMatch(new RegExp(`^[^(]*\\(${index + 2},`));
      expect(errors[index]).toMatch(message);
    });
  });
});
