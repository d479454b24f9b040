// The control groups that this process is in, of version 2 or 1, as folders whose files tell limits.

import { readFileSync } from 'node:fs';

/** A file's text, or undefined where there is none. */
export type ReadText = (path: string) => string | undefined;

/**
 * Folders of the groups around this process that `controller` (`memory`, `cpu`) has a say in, outermost first. Inside a
 * container the group is at the root of what is mounted, outside it has a path; groups above it limit as well.
 */
export function* groupFolders(read: ReadText, controller: string): Generator<string> {
  for (const line of (read('/proc/self/cgroup') ?? `0::/\n0:${controller}:/`).split('\n')) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    const [, controllers = '', path = '/'] = match ?? [];
    if (!match || (controllers !== '' && !controllers.split(',').includes(controller))) continue;
    const root = controllers === '' ? '/sys/fs/cgroup' : `/sys/fs/cgroup/${controller}`;
    yield root;
    for (const inner of foldersOf(path)) yield `${root}${inner}`;
  }
}

/** `/a/b` → `/a`, `/a/b`. */
function foldersOf(path: string): string[] {
  const names = path.split('/').filter((name) => name !== '' && name !== '..');
  return names.map((_, index) => `/${names.slice(0, index + 1).join('/')}`);
}

export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
