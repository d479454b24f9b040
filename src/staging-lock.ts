// One writer per staging folder: a lock file that names its process, so that a lock left by a crash can be told.

import { open, readFile, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, systemCode } from './json-file.js';
import { writeFailure } from './staging-manifest.js';

export interface LockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called once when another process holds the lock and we begin to wait for it. */
  readonly onWait?: ((pid: number) => void) | undefined;
}

interface Owner {
  readonly host: string;
  readonly pid: number;
  /** Clock ticks from boot to the start of the process: pids are used again. Empty where /proc is missing. */
  readonly started: string;
}

const POLL_MS = 200;

/** Takes the lock, waiting while a living process holds it. Returns the function that gives it back. */
export async function takeLock(path: string, options: LockOptions = {}): Promise<() => Promise<void>> {
  let waiting = false;
  for (;;) {
    if (await createLock(path)) return () => rm(path, { force: true });
    const text = await readLock(path);
    if (text === undefined) continue; // given back just now
    const owner = parseOwner(text, path);
    if (owner.host !== hostname()) {
      throw new OperatingError(
        'WRITE_FAILED',
        `${path} is held by process ${owner.pid} on ${owner.host}: wait for it, or delete the file if it is gone`,
      );
    }
    if (await isAlive(owner)) {
      if (!waiting) options.onWait?.(owner.pid);
      waiting = true;
      await pause(options.signal);
    } else await removeStale(path, text);
  }
}

async function createLock(path: string): Promise<boolean> {
  const owner: Owner = { host: hostname(), pid: process.pid, started: await startOf(process.pid) };
  try {
    const file = await open(path, 'wx');
    try {
      await file.writeFile(JSON.stringify(owner));
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw writeFailure(path, error);
  }
}

async function readLock(path: string): Promise<string | undefined> {
  // Its owner creates the file and then writes one line: an empty file is given a moment.
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      const text = await readFile(path, 'utf8');
      if (text !== '') return text;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw writeFailure(path, error);
    }
    await sleep(POLL_MS);
  }
  return '';
}

function parseOwner(text: string, path: string): Owner {
  try {
    const owner: unknown = JSON.parse(text);
    if (isJsonObject(owner)) {
      const { host, pid, started } = owner;
      if (typeof host === 'string' && typeof pid === 'number' && typeof started === 'string') {
        return { host, pid, started };
      }
    }
  } catch {
    // said below
  }
  throw new OperatingError('WRITE_FAILED', `${path} names no process: delete it if no copy is under way`);
}

async function isAlive(owner: Owner): Promise<boolean> {
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if (systemCode(error) === 'ESRCH') return false;
    // EPERM: it lives and is somebody else's.
  }
  return owner.started === '' || owner.started === (await startOf(owner.pid));
}

/** Field 22 of /proc/PID/stat (proc(5)); the second field may hold spaces and brackets, so count from its end. */
async function startOf(pid: number): Promise<string> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/**
 * Removes a lock that was read as `text` and whose process is gone. Two processes may come here at once, and the
 * second must not remove the lock that the first has taken meanwhile: it looks at what it moved away.
 */
async function removeStale(path: string, text: string): Promise<void> {
  const aside = `${path}.${process.pid}`;
  try {
    await rename(path, aside);
    if ((await readFile(aside, 'utf8')) === text) await rm(aside, { force: true });
    else await rename(aside, path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw writeFailure(path, error);
  }
}

async function pause(signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(POLL_MS, undefined, signal ? { signal } : {});
  } catch {
    throw new OperatingError('INTERRUPTED', 'stopped while waiting for another process to copy the weights');
  }
}
