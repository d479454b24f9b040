// One writer per folder of weights: a lock of the operating system, which is free again however its holder ends.

import type { Stats } from 'node:fs';
import { constants, type FileHandle, open, readFile, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { lockFile, OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { isJsonObject, reason, systemCode } from '../files/json-file.js';
import { writeFailure } from './manifest.js';

export interface LockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called once when somebody else holds the lock and we begin to wait, with who it is: `process 17 on this machine`. */
  readonly onWait?: ((holder: string) => void) | undefined;
}

const FIRST_POLL_MS = 5;
const LONGEST_POLL_MS = 200;

/**
 * Takes the lock, waiting while another holds it. Returns the function that gives it back. The file at `path` is there
 * while somebody holds or wants the lock, and after a crash, until it is taken again; what is in it is for readers only.
 * Throws WRITE_FAILED, or INTERRUPTED when the signal comes while it waits.
 */
export async function takeLock(path: string, options: LockOptions = {}): Promise<() => Promise<void>> {
  let waiting = false;
  for (let pauseMs = FIRST_POLL_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_POLL_MS)) {
    const file = await openLock(path);
    try {
      if (!lock(file, path)) {
        // Who has just taken it may not have written its name.
        const holder = waiting ? undefined : await holderOf(path);
        if (!waiting && (holder || pauseMs > FIRST_POLL_MS)) {
          waiting = true;
          options.onWait?.(holder ?? 'another process');
        }
      } else if (await isAt(path, file)) {
        await describeHolder(file);
        return () => giveBack(path, file);
      } else {
        pauseMs = FIRST_POLL_MS; // it was given back just now, with its file
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
    await pause(pauseMs, options.signal);
  }
}

/** Whether another process holds the lock at this moment. Nothing is made, and nothing is waited for. Throws WRITE_FAILED. */
export async function isLocked(path: string): Promise<boolean> {
  const file = await ifThere(
    path,
    open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK),
  );
  if (!file) return false;
  try {
    return !lock(file, path);
  } finally {
    await file.close();
  }
}

/** Neither a link, which could lead anywhere, nor a pipe, which could make us wait. */
async function openLock(path: string): Promise<FileHandle> {
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  try {
    const file = await open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o666);
    if ((await file.stat()).isFile()) return file;
    await file.close();
    throw new Error('it is no regular file');
  } catch (error) {
    throw writeFailure(path, error);
  }
}

function lock(file: FileHandle, path: string): boolean {
  try {
    return lockFile(file.fd);
  } catch (error) {
    if (error instanceof OperatingError) throw error; // there is no addon
    throw new OperatingError(
      'WRITE_FAILED',
      `${path} cannot be locked, so that two runs might write the same weights: ${reason(error)}; give a folder on ` +
        'another file system',
      { cause: error },
    );
  }
}

/**
 * Whether the locked file is still the one that others will find. Holders remove it before they give the lock back, so
 * who has waited for it holds a file without a name. The descriptor is asked as well: file systems of a network may
 * know a name longer than its file exists, but ask for the file itself once it is locked.
 */
async function isAt(path: string, file: FileHandle): Promise<boolean> {
  let own: Stats;
  let named: Stats;
  try {
    own = await file.stat();
    named = await stat(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ESTALE') return false;
    throw writeFailure(path, error);
  }
  return own.nlink > 0 && own.ino === named.ino && own.dev === named.dev;
}

/** For whoever waits. A full drive is no reason not to hold the lock: what is to be written will tell. */
async function describeHolder(file: FileHandle): Promise<void> {
  try {
    await file.truncate();
    await file.write(JSON.stringify({ host: hostname(), pid: process.pid, started: '' }), 0);
  } catch {
    // said above
  }
}

async function holderOf(path: string): Promise<string | undefined> {
  try {
    const holder: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (isJsonObject(holder) && typeof holder.pid === 'number' && typeof holder.host === 'string') {
      return `process ${holder.pid} on ${holder.host === hostname() ? 'this machine' : holder.host}`;
    }
  } catch {
    // it has just taken it, or given it back
  }
  return undefined;
}

/**
 * The file goes first: whoever gets the lock on it then sees that it is no longer the one. If somebody removed it
 * meanwhile, what lies there now is another's.
 */
async function giveBack(path: string, file: FileHandle): Promise<void> {
  try {
    if (await isAt(path, file)) await rm(path, { force: true });
  } finally {
    await file.close();
  }
}

async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(milliseconds, undefined, signal ? { signal } : {});
  } catch {
    throw new OperatingError(
      'INTERRUPTED',
      'stopped while waiting for another process that writes the weights',
    );
  }
}
