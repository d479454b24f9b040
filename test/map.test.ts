// The maps' own tests: a file that no README names is found, and so is a name that leads nowhere.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { commentsOfNothing, FILES_WITHOUT_README, namesOfNothing, offTheMap } from './helpers/source-map.js';
import { tempFolder } from './helpers/temp-folder.js';

/** A project of these files; a README's text is its tables. */
function project(files: Readonly<Record<string, string>>): string {
  const root = tempFolder();
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const row = (name: string) => `| \`${name}\` | its one idea |\n`;

describe('offTheMap', () => {
  const gaps = (files: Readonly<Record<string, string>>) => offTheMap(project(files), ['src']);

  it('takes names and patterns in tables, of files below folders without a README as well', () => {
    const readme = row('a.ts') + row('torch-*.ts') + row('deep/b.ts');
    expect(
      gaps({ 'src/README.md': readme, 'src/a.ts': '', 'src/torch-x.ts': '', 'src/deep/b.ts': '' }),
    ).toEqual([]);
  });

  it('says which row is missing in which README', () => {
    expect(gaps({ 'src/README.md': row('a.ts'), 'src/a.ts': '', 'src/deep/b.cc': '' })).toEqual([
      'src/deep/b.cc is on no map: add a row to src/README.md: | `deep/b.cc` | its one idea |',
    ]);
  });

  it('counts neither prose, nor a pattern for everything, nor a README further up', () => {
    expect(gaps({ 'src/README.md': 'See `a.ts`.\n', 'src/a.ts': '' })).toHaveLength(1);
    expect(gaps({ 'src/README.md': row('*.ts'), 'src/a.ts': '' })).toHaveLength(1);
    const nested = {
      'src/README.md': row('deep/') + row('deep/b.ts'),
      'src/deep/README.md': '',
      'src/deep/b.ts': '',
    };
    expect(gaps(nested)).toEqual([
      'src/deep/b.ts is on no map: add a row to src/deep/README.md: | `b.ts` | its one idea |',
    ]);
  });

  it('wants folders with a README named above them, and a README in crowded ones', () => {
    expect(gaps({ 'src/README.md': '', 'src/deep/README.md': '' })).toEqual([
      'src/deep/ is on no map: add a row to src/README.md: | `deep/` | its one idea |',
    ]);
    const names = Array.from({ length: FILES_WITHOUT_README + 1 }, (_, n) => `deep/file${n}.ts`);
    const crowded = {
      'src/README.md': names.map(row).join(''),
      ...Object.fromEntries(names.map((n) => [`src/${n}`, ''])),
    };
    expect(gaps(crowded)).toEqual([`src/deep/ has more than ${FILES_WITHOUT_README} files and no README.md`]);
  });
});

describe('namesOfNothing', () => {
  const wrong = (text: string) => {
    const root = project({
      'src/README.md': text,
      'src/a.ts': '',
      'src/deep/b.ts': '',
      'configs/m/x.json': '',
    });
    return namesOfNothing(root, 'src/README.md').length;
  };

  it('finds files, folders and patterns that are not there, in commands too', () => {
    for (const name of [
      'c.ts',
      'src/c.ts',
      'deep/c.ts',
      'configs/m/y.json',
      'deep/c-*.ts',
      'src/shallow/',
      'OTHER.md',
    ])
      expect([name, wrong(`See \`${name}\`.`)]).toEqual([name, 1]);
    expect(wrong('```sh\nnode dist/src/c.js --name FOLDER\n```\n')).toBe(1);
  });

  it('lets pass what is there, what belongs to others, and what the reader puts in', () => {
    const names = [
      'a.ts',
      'src/a.ts',
      'deep/b.ts',
      'src/deep/',
      'deep/*.ts',
      'configs/m/x.json',
      'README.md',
    ];
    const others = [
      'config.json',
      'napi.h',
      'NAME.ts',
      'out/bench',
      'FILE.jsonl',
      '/dev/shm',
      'dist/',
      '--name',
      '*.ts',
    ];
    for (const name of [...names, ...others]) expect([name, wrong(`See \`${name}\`.`)]).toEqual([name, 0]);
    expect(wrong('```sh\nnode dist/src/a.js --output out/FILE.jsonl\n```\n')).toBe(0);
  });
});

describe('commentsOfNothing', () => {
  it('finds names of files that moved, in every kind of comment, and no others', () => {
    const wrong = (text: string) =>
      commentsOfNothing(project({ 'src/a.ts': text, 'src/deep/b.ts': '' }), ['src']).length;
    for (const text of ['// as c.ts does', '/** See deep/c.ts. */', 'x(); // src/b.ts', '/// other/a.h'])
      expect([text, wrong(text)]).toEqual([text, 1]);
    for (const text of [
      '// as b.ts does',
      '/** See deep/b.ts and src/a.ts. */',
      "import './c.ts'",
      '// napi.h, NAME.ts',
    ])
      expect([text, wrong(text)]).toEqual([text, 0]);
  });
});
