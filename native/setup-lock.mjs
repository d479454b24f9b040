// One set-up at a time: the system's lock on .setup/lock, which ends with the process that holds it.

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { PATH, SetupError, SIGNALS, STAMPS, say } from './setup-tools.mjs';

/** The exit status of `flock -n` where somebody else holds the lock. */
const BUSY = 1;

/**
 * Two set-ups at once would build into the same folders: the second waits. Node has no such lock, but flock(1) sets it
 * on an open file that it inherits, and there it stays for as long as we have the file open. The file is never
 * removed, so nobody can lock one that others no longer see.
 */
export async function withLock(work) {
  const path = join(STAMPS, 'lock');
  const file = openSync(path, 'a');
  try {
    await lock(file, path);
    // For whoever waits.
    ftruncateSync(file);
    writeSync(file, `${process.pid}`);
    return await work();
  } finally {
    closeSync(file);
  }
}

async function lock(file, path) {
  const options = { env: { ...process.env, PATH }, stdio: ['ignore', 'ignore', 'ignore', file] };
  const { error, status } = spawnSync('flock', ['-n', '3'], options);
  if (status === 0) return;
  if (status !== BUSY) {
    const why = error
      ? `flock (of util-linux) cannot be started: ${error.message}`
      : 'its file system has no locks';
    say(`${path} is not locked, because ${why}; nothing keeps a second set-up from running beside this one`);
    return;
  }
  say(`waiting for the set-up of process ${readFileSync(path, 'utf8') || 'another user'}`);
  const waiting = spawn('flock', ['3'], options);
  const stop = () => {
    waiting.kill();
    process.exit(130);
  };
  for (const signal of SIGNALS) process.once(signal, stop);
  const code = await new Promise((resolve) => waiting.on('close', resolve));
  for (const signal of SIGNALS) process.off(signal, stop);
  if (code !== 0) throw new SetupError(`${path} cannot be locked: flock ended with status ${code}`);
}
