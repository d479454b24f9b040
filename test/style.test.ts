// Style as tests: rules about the sources themselves, which may be tightened and never loosened.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../offload/errors.js';
import { INTERNAL_STATUS } from '../src/cli/failure.js';
import { againstOrder, circles } from './helpers/import-order.js';
import { longParameterLists } from './helpers/parameters.js';
import { commentsOfNothing, filesBelow, namesOfNothing, offTheMap } from './helpers/source-map.js';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const MAX_LINES = 400;
const MOST_PARAMETERS = 4;
/** May only become fewer. Where it costs an object per operation, or somebody else's interface has the order. */
const LONG_LISTS = [
  // Parts of a forward: its operations and the weights come first, what is computed in place last.
  'src/models/decoder-parts.ts: project',
  'src/models/decoder-parts.ts: separateAttention',
  'src/models/opt.ts: norm',
  // As String.replace calls it.
  'src/text/jinja/lexer.ts: arrow',
  // From where to where, and how much: once per piece of a layer.
  'offload/backends/native-stream.ts: copy',
  'offload/backends/op-encoding.ts: encodeCopy',
  'offload/model/forward-ops.ts: layerNorm',
  'offload/model/forward-ops.ts: rmsNorm',
  'offload/port/backend.ts: copy',
  'offload/port/tensor.ts: heads',
];

interface Source {
  /** Relative to the project's root. */
  readonly path: string;
  readonly text: string;
  /** The text without comments, and with the contents of its strings blanked. */
  readonly code: string;
}

const COMMENT_OR_STRING =
  /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g;

function codeOf(text: string): string {
  return text.replace(COMMENT_OR_STRING, (match) => (match.startsWith('/') ? '' : "''"));
}

function below(folder: string): Source[] {
  const absolute = join(ROOT, folder);
  if (!existsSync(absolute)) return [];
  return readdirSync(absolute, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === 'node_modules') return [];
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory())
      return ['build', 'building', 'fixtures', 'node-api'].includes(entry.name) ? [] : below(path);
    if (!/\.(ts|mjs|cc|h|cu|cuh)$/.test(entry.name)) return [];
    const text = readFileSync(join(ROOT, path), 'utf8');
    return [{ path, text, code: codeOf(text) }];
  });
}

const SOURCES = ['src', 'offload', 'native', 'test', 'bench'].flatMap(below);
const TYPESCRIPT = SOURCES.filter((source) => source.path.endsWith('.ts'));
const SHIPPED = SOURCES.filter((source) => /^(src|offload|native)\//.test(source.path));

function inFolder(folder: string): Source[] {
  return SOURCES.filter((source) => source.path.startsWith(`${folder}/`));
}

/** `path:line` of every match of `pattern` in `text(source)`. */
function matches(sources: readonly Source[], pattern: RegExp, text: (source: Source) => string): string[] {
  return sources.flatMap((source) =>
    [...text(source).matchAll(new RegExp(pattern, 'gm'))].map(
      (match) => `${source.path}: ${match[0].trim()}`,
    ),
  );
}

/** Specifiers, types' as well. */
function importsOf(source: Source): string[] {
  const statements = source.text.matchAll(
    /^(?:import|export)\s+(?:type\s)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm,
  );
  return [...statements].map((match) => (match[1] ?? match[2]) as string);
}

/** Where a relative import leads, from the project's root and as a source: `offload/plan/plan.ts`. */
function target(source: Source, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  return relative(ROOT, join(ROOT, dirname(source.path), specifier)).replace(/\.js$/, '.ts');
}

function wrongImports(sources: readonly Source[], allowed: (target: string) => boolean): string[] {
  return sources.flatMap((source) =>
    importsOf(source).flatMap((specifier) => {
      const path = target(source, specifier);
      return path === undefined || allowed(path) ? [] : [`${source.path} imports ${path}`];
    }),
  );
}

/** What each source imports of others, types included. */
const IMPORTS = new Map(
  [...inFolder('src'), ...inFolder('offload')].map((source) => [
    source.path,
    importsOf(source).flatMap((specifier) => target(source, specifier) ?? []),
  ]),
);

describe('imports point one way', () => {
  it('offload imports nothing outside itself', () => {
    expect(wrongImports(inFolder('offload'), (path) => path.startsWith('offload/'))).toEqual([]);
  });

  it('src reaches offload through its entries only, and neither tests nor benchmarks nor native', () => {
    // Errors by themselves, so that what programs see of types needs nothing else of `offload/`.
    const entries = ['offload/index.ts', 'offload/plan/profile-file.ts', 'offload/errors.ts'];
    const allowed = (path: string) => entries.includes(path) || !/^(offload|test|bench|native)\//.test(path);
    expect(wrongImports(inFolder('src'), allowed)).toEqual([]);
  });

  it.each(['offload', 'src'])(
    'a folder of %s imports what its README has above it, by types as well',
    (top) => {
      const readme = readFileSync(join(ROOT, top, 'README.md'), 'utf8');
      expect(againstOrder(top, readme, IMPORTS)).toEqual([]);
    },
  );

  it('and what stands below is found, as is a file on no row', () => {
    const readme = '| folder | |\n|---|---|\n| `a.ts`, `low/` | |\n| `high/one.ts` | |\n';
    const imports = new Map([
      ['x/low/b.ts', ['x/a.ts', 'x/high/one.ts', 'y/z.ts']],
      ['x/high/two.ts', ['x/low/b.ts', 'x/high/one.ts']],
      ['x/c.ts', []],
    ]);
    expect(againstOrder('x', readme, imports)).toEqual([
      'x/low/b.ts imports x/high/one.ts, which stands below it',
      'x/c.ts is in no row of x/README.md',
    ]);
  });

  it('no circles, not even of types', () => {
    expect(circles(IMPORTS)).toEqual([]);
  });

  it('and circles are found, however long', () => {
    const imports = {
      a: ['b', 'c'],
      b: ['d'],
      c: ['d'],
      d: ['b', 'e'],
      e: ['f'],
      f: ['e'],
      g: ['a'],
      h: ['h'],
    };
    expect(circles(new Map(Object.entries(imports)))).toEqual([['e', 'f'], ['b', 'd'], ['h']]);
  });

  it('the addon is found by offload/port/addon-path.ts, and loaded by offload/port/native.ts alone', () => {
    const users = ['offload/port/addon-path.ts', 'offload/port/native.ts'];
    const others = [...inFolder('src'), ...inFolder('offload')].filter(
      (source) => !users.includes(source.path),
    );
    const loading = /^.*(zero_inference\.node|process\.dlopen).*$/;
    expect(matches(others, loading, (source) => source.text)).toEqual([]);
  });
});

describe('native includes', () => {
  const included = /^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm;
  const including = (folder: string, pattern: RegExp) =>
    inFolder(folder).flatMap((source) =>
      [...source.text.matchAll(included)]
        .filter((match) => pattern.test(match[1] as string))
        .map((match) => `${source.path} includes ${match[1]}`),
    );

  it('napi.h only below native/binding', () => {
    const wrong = including('native', /napi|node_api/).filter((line) => !line.startsWith('native/binding/'));
    expect(wrong).toEqual([]);
  });

  it('core and kernels know no bindings, and core knows no kernels', () => {
    for (const folder of ['core', 'cpu', 'cuda'])
      expect(including(`native/${folder}`, /binding\//)).toEqual([]);
    expect(including('native/core', /^(\.\.\/)?(cpu|cuda)\//)).toEqual([]);
  });
});

describe('every source', () => {
  it(`has at most ${MAX_LINES} lines`, () => {
    const lines = (source: Source) => source.text.trimEnd().split('\n').length;
    const long = SOURCES.filter((source) => lines(source) > MAX_LINES);
    expect(long.map((source) => `${source.path}: ${lines(source)}`)).toEqual([]);
  });

  it('of the product begins with a sentence that says its responsibility', () => {
    const silent = SHIPPED.filter(({ text }) => {
      const comment = /^(?:#!.*\n)?((?:\/\/.*\n)+)/.exec(text)?.[1] ?? '';
      return !/^\/\/ \S[\s\S]*[.!?:]\s*$/m.test(comment);
    });
    expect(silent.map((source) => source.path)).toEqual([]);
  });

  it('has comments that name the thing or are sentences: none begins with a bare "Of"', () => {
    expect(matches(SOURCES, /^\s*(?:\/\/\/?|\/\*\*|\*) Of\b.*$/, (source) => source.text)).toEqual([]);
  });

  it('is finished: no notes to self, no tests left out or run alone', () => {
    const notes = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`);
    expect(matches(SOURCES, notes, (source) => source.text)).toEqual([]);
    const leftOut = /\b(it|test|describe|suite)\.(only|skip|todo)\b|\b(xit|xdescribe|fit|fdescribe)\(/;
    expect(matches(inFolder('test'), leftOut, (source) => source.code)).toEqual([]);
  });
});

describe('TypeScript', () => {
  it('has no any, no enum and no default export', () => {
    const any = /[:<,|&(=]\s*any\b(?!\s*[:(])|\bas\s+any\b|\bextends\s+any\b/;
    expect(matches(TYPESCRIPT, any, (source) => source.code)).toEqual([]);
    expect(matches(TYPESCRIPT, /\benum\s+\w+\s*\{/, (source) => source.code)).toEqual([]);
    const defaults = /^export\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/;
    expect(matches(TYPESCRIPT, defaults, (source) => source.code)).toEqual([]);
  });

  it('takes at most four things by their place', () => {
    const long = [...inFolder('src'), ...inFolder('offload')].flatMap(({ path, code }) =>
      longParameterLists(code, MOST_PARAMETERS).map(({ name }) => `${path}: ${name}`),
    );
    expect(long).toEqual(LONG_LISTS);
  });

  it('and whatever takes more is found', () => {
    const five = 'a: Map<string, number>, { b, c }: B, d = [1, 2], e?: () => void, ...f: string[]';
    const declarations = {
      one: `\nexport async function one(\n  ${five},\n): Promise<void> {}`,
      constructor: `\n  private constructor(${five}) {}`,
      two: `\n  static async two<T>(${five}): Promise<T> {}`,
      '#three': `\n  #three(${five}) {}`,
      four: `\n  four(${five}): void;`,
      five: `\ntype five = (${five}) => void;`,
      six: `\nconst six = async (${five}): Promise<number> => 1;`,
      function: `\ncall(function (${five}) {});`,
    };
    for (const [name, code] of Object.entries(declarations))
      expect(longParameterLists(code, MOST_PARAMETERS)).toEqual([{ name, count: 5 }]);
    const calls = '\n  one(1, 2, 3, 4, 5);\n  if (two(a, b, c, d, e)) {}\n  return x ? f(1, 2, 3, 4, 5) : g;';
    expect(longParameterLists(`${calls}\nfunction few(a: A<B, C>, b, c, d) {}`, MOST_PARAMETERS)).toEqual([]);
  });

  it('silences no checker', () => {
    const silencers = new RegExp(`^.*(@ts-(ignore|nocheck|expect-error)|${'biome'}-ignore).*$`);
    const others = SOURCES.filter((source) => source.path !== 'test/style.test.ts');
    expect(matches(others, silencers, (source) => source.text)).toEqual([]);
  });
});

describe('maps', () => {
  const folders = ['src', 'offload', 'native', 'test', 'bench'];

  it('name every source file and every folder with a README.md, in a table of the nearest one above', () => {
    expect(offTheMap(ROOT, folders)).toEqual([]);
  });

  it('name no file that is not there', () => {
    const below = [...folders, 'configs'].flatMap((folder) => filesBelow(ROOT, folder));
    const documents = ['README.md', 'ARCHITECTURE.md', ...below.filter((path) => path.endsWith('README.md'))];
    expect(documents.flatMap((document) => namesOfNothing(ROOT, document))).toEqual([]);
    // Comments within strings are what map.test.ts is about.
    const gaps = commentsOfNothing(ROOT, folders).filter((gap) => !gap.startsWith('test/map.test.ts'));
    expect(gaps).toEqual([]);
  });
});

describe('README.md', () => {
  /** Rows of the table of errors: `| \`CODE\` | exit status | … |`. */
  function documentedCodes(): Map<string, number> {
    const path = join(ROOT, 'README.md');
    const readme = existsSync(path) ? readFileSync(path, 'utf8') : '';
    const rows = readme.matchAll(/^\|\s*`([A-Z]+(?:_[A-Z]+)*)`\s*\|\s*(\d+)\s*\|/gm);
    return new Map([...rows].map((row) => [row[1] as string, Number(row[2])]));
  }

  it('documents every error code with its exit status, and no other', () => {
    const codes = Object.entries(ERROR_CODES).map(([code, { exitStatus }]) => [code, exitStatus] as const);
    const all = { ...Object.fromEntries(codes), INTERNAL: INTERNAL_STATUS };
    expect(Object.fromEntries(documentedCodes())).toEqual(all);
  });
});
