// Replacing what a file holds: owner, permissions and other names stay, and after an error so does the content.

import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { JsonLinesFile } from '../../src/files/json-lines-file.js';
import {
  checkReplaceable,
  checkWritable,
  MACHINE,
  REPORT,
  TRACE,
  writeWhole,
} from '../../src/files/output-file.js';
import { identityOf, isStdout, outputTarget } from '../../src/files/output-target.js';
import { replaceFile } from '../../src/files/replace-file.js';
import { tempFolder } from '../helpers/temp-folder.js';

const isRoot = process.getuid?.() === 0;

function fileWith(content: string, name = 'file'): { folder: string; path: string } {
  const folder = tempFolder();
  const path = join(folder, name);
  writeFileSync(path, content);
  return { folder, path };
}

/** Content whose second piece cannot be had. */
function* failing(): Generator<Uint8Array, void> {
  yield Buffer.from('half');
  throw new Error('no space left');
}

describe('a file that is replaced', () => {
  it.each([[0o600], [0o644], [0o4755], [0o660]])('keeps its permissions %o', (mode) => {
    const { folder, path } = fileWith('old');
    chmodSync(path, mode);
    writeWhole(path, 'new', '--report');
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(statSync(path).mode & 0o7777).toBe(mode);
    expect(readdirSync(folder)).toEqual(['file']);
  });

  it.runIf(isRoot)('keeps its owner and group', () => {
    const { path } = fileWith('old');
    chownSync(path, 1234, 4321);
    writeWhole(path, 'new', '--report');
    const { uid, gid } = statSync(path);
    expect([uid, gid]).toEqual([1234, 4321]);
  });

  it('keeps its other names', () => {
    const { folder, path } = fileWith('a longer old content');
    linkSync(path, join(folder, 'other'));
    writeWhole(path, 'new', '--report');
    expect(readFileSync(join(folder, 'other'), 'utf8')).toBe('new');
    expect(statSync(path).nlink).toBe(2);
  });

  it('is what it was after an error, with one name or two, and nothing lies beside it', () => {
    const { folder, path } = fileWith('a longer old content');
    const replace = () => replaceFile(path, statSync(path, { bigint: true }), failing());
    expect(replace).toThrow('no space left');
    linkSync(path, join(folder, 'other'));
    expect(replace).toThrow('no space left');
    expect(readFileSync(path, 'utf8')).toBe('a longer old content');
    expect(readdirSync(folder).sort()).toEqual(['file', 'other']);
  });

  it('is reached through links, which stay, also where it is not there yet', () => {
    const { folder, path } = fileWith('old');
    mkdirSync(join(folder, 'below'));
    symlinkSync(path, join(folder, 'below', 'absolute'));
    symlinkSync('below/absolute', join(folder, 'chain'));
    symlinkSync('below/new', join(folder, 'dangling'));
    for (const link of ['chain', 'dangling']) {
      writeWhole(join(folder, link), link, '--report');
      expect(lstatSync(join(folder, link)).isSymbolicLink()).toBe(true);
    }
    expect(readFileSync(path, 'utf8')).toBe('chain');
    expect(readFileSync(join(folder, 'below', 'new'), 'utf8')).toBe('dangling');
    expect(readdirSync(join(folder, 'below')).sort()).toEqual(['absolute', 'new']);
  });

  it('may have a name as long as names can be', () => {
    const { path } = fileWith('old', 'n'.repeat(255));
    writeWhole(path, 'new', '--report');
    expect(readFileSync(path, 'utf8')).toBe('new');
  });
});

describe('what a path leads to', () => {
  it('a link in a circle, a folder, a name that ends as one, and an absent folder are refused', () => {
    const { folder, path } = fileWith('old');
    symlinkSync('circle', join(folder, 'circle'));
    symlinkSync('absent/file', join(folder, 'far'));
    const cases: [string, RegExp][] = [
      [join(folder, 'circle'), /ELOOP|in a circle/],
      [folder, /it is a folder/],
      [`${folder}/new/`, /it is a folder/],
      [`${path}/below`, /ENOTDIR|no folder/],
      [join(folder, 'absent', 'file'), /there is no folder .*absent/],
      [join(folder, 'far'), /there is no folder/],
    ];
    for (const [one, message] of cases) {
      expect(() => checkWritable(one, '--report')).toThrow(message);
      expect(() => checkWritable(one, '--report')).toThrow(/^--report: .* cannot be written: /);
    }
  });

  it('names of one file have one identity, those of two do not', () => {
    const { folder, path } = fileWith('old');
    mkdirSync(join(folder, 'sub'));
    symlinkSync('sub', join(folder, 'link'));
    const same = [path, join(folder, '.', 'file'), `${folder}/link/../file`, `${folder}//sub/../file`];
    expect(new Set(same.map((one) => identityOf(outputTarget(one)))).size).toBe(1);
    const fresh = [join(folder, 'sub', 'new'), join(folder, 'link', 'new')];
    expect(new Set(fresh.map((one) => identityOf(outputTarget(one)))).size).toBe(1);
    expect(identityOf(outputTarget(join(folder, 'new')))).not.toBe(identityOf(outputTarget(fresh[0] ?? '')));
  });

  it('stdout under every name is the descriptor, and devices are streams', () => {
    for (const name of ['-', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1', `/proc/${process.pid}/fd/1`]) {
      expect(isStdout(name)).toBe(true);
    }
    expect(isStdout('/dev/stderr')).toBe(false);
    expect(outputTarget('/dev/null').kind).toBe('stream');
    writeWhole('/dev/null', 'anything', '--report');
    expect(statSync('/dev/null').isCharacterDevice()).toBe(true);
    const file = new JsonLinesFile('/dev/null', '--output');
    file.open();
    file.write({ index: 0 });
    file.close();
  });
});

describe('files of another kind', () => {
  it.each([
    ['an earlier report', '{\n  "command": "score",\n  "model": {}\n}', REPORT],
    ['an earlier trace', '{"traceEvents":[],"displayTimeUnit":"ms"}', TRACE],
    ['nothing', '', MACHINE],
  ])('%s may be replaced', (_, content, whole) => {
    const { path } = fileWith(content);
    expect(() => checkReplaceable(outputTarget(path), '--report', whole)).not.toThrow();
  });

  it.each([
    ['notes', 'command: model:', REPORT],
    ['a configuration', '{"model_type": "llama", "hidden_size": 4}', REPORT],
    ['a report', '{"command": "score", "model": {}}', TRACE],
    ['results', '{"index":0,"prompt":"\\"command\\": \\"model\\":"}', REPORT],
    ['bytes', '\0\0\0', MACHINE],
  ])('%s are not', (_, content, whole) => {
    const { path } = fileWith(content);
    expect(() => checkReplaceable(outputTarget(path), '--report', whole)).toThrow(
      `${path} is there and is not ${whole.what}`,
    );
  });
});
