// A hub cache with one model in two revisions that share a blob, something half downloaded, and a link that leads out.

import { mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export const COMMITS = ['a1'.repeat(20), 'b2'.repeat(20)] as const;
const LONG_AGO = new Date('2020-01-01');

export interface FilledCache {
  readonly cache: string;
  readonly model: string;
  /** What a snapshot links to, and no part of the cache. */
  readonly outside: string;
}

export function fillCache(folder: string): FilledCache {
  const cache = join(folder, 'hub');
  const model = join(cache, 'models--org--name');
  const outside = join(folder, 'outside');
  const write = (path: string, content: string | Buffer) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    utimesSync(path, LONG_AGO, LONG_AGO);
  };
  const link = (path: string, target: string) => {
    mkdirSync(dirname(path), { recursive: true });
    symlinkSync(target, path);
  };
  const [first, second] = COMMITS;
  write(outside, 'precious');
  write(join(model, 'blobs/shared'), Buffer.alloc(100));
  write(join(model, 'blobs/own-of-first'), Buffer.alloc(20));
  write(join(model, 'blobs/own-of-second'), Buffer.alloc(3));
  write(join(model, 'blobs/half.incomplete'), Buffer.alloc(40));
  link(join(model, 'snapshots', first, 'weights'), '../../blobs/shared');
  link(join(model, 'snapshots', first, 'inner/config'), '../../../blobs/own-of-first');
  link(join(model, 'snapshots', first, 'elsewhere'), outside);
  link(join(model, 'snapshots', second, 'weights'), '../../blobs/shared');
  link(join(model, 'snapshots', second, 'config'), '../../blobs/own-of-second');
  write(join(model, 'refs/main'), first);
  write(join(model, 'refs/v1'), second);
  write(join(model, '.no_exist', first, 'tokenizer.model'), '');
  write(join(cache, 'datasets--org--other/blobs/x'), 'x');
  return { cache, model, outside };
}
