// What the steps of setup.mjs share: running programs with progress, stamps of finished work, hashes, and the lock.

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { delimiter, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
export const PATH = pathWithNode(process.env.PATH ?? '');
const ENVIRONMENT = { ...process.env, PATH };
const STAMPS = join(ROOT, '.setup');
const VERBOSE = process.env.ZI_VERBOSE === '1';
const HEARTBEAT_MS = 10_000;

/** Something the user can put right; shown as a sentence, without a stack trace. */
export class SetupError extends Error {
  constructor(message, exitStatus = 1) {
    super(message);
    this.exitStatus = exitStatus;
  }
}

/** To stderr, so that `npm run demo > file` holds the generated text alone. */
export function say(line) {
  process.stderr.write(`setup: ${line}\n`);
}

export function seconds(sinceMs) {
  return `${((performance.now() - sinceMs) / 1000).toFixed(1)} s`;
}

// ---------------------------------------------------------------------------------------------- running programs

/** cmake-js, CMake and npm's programs look for `node` on the path: it must be the one that runs this. */
function pathWithNode(path) {
  const first = path.split(delimiter).find((folder) => existsSync(join(folder, 'node')));
  const isOurs = first !== undefined && realpathSync(join(first, 'node')) === realpathSync(process.execPath);
  return isOurs ? path : [dirname(process.execPath), path].join(delimiter);
}

/** Standard output of a short command, or undefined when it is absent or fails. */
export function capture(command, args, input = '') {
  const result = spawnSync(command, args, { env: ENVIRONMENT, input, encoding: 'utf8' });
  return result.status === 0 ? result.stdout : undefined;
}

export function onPath(program) {
  return PATH.split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Runs one program of a step. Its output goes to `log`, or straight through when ZI_VERBOSE=1. */
function runProgram(command, args, log, onLine) {
  return new Promise((resolve, reject) => {
    let interrupted = false;
    const stop = (signal) => {
      interrupted = true;
      child.kill(signal);
    };
    // Before the program starts, so that no signal finds us without; it is delivered after this function.
    process.once('SIGTERM', stop).once('SIGINT', stop);
    const child = spawn(command, args, { cwd: ROOT, env: ENVIRONMENT, stdio: ['ignore', 'pipe', 'pipe'] });
    const take = (chunk) => {
      writeSync(log, chunk);
      if (VERBOSE) process.stderr.write(chunk);
      const line = chunk
        .toString()
        .trimEnd()
        .split(/[\r\n]/)
        .at(-1);
      if (line && !line.startsWith('npm warn')) onLine(line);
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('error', (error) => reject(new SetupError(`'${command}' cannot be started: ${error.message}`)));
    child.on('close', (status, signal) => {
      process.off('SIGTERM', stop).off('SIGINT', stop);
      resolve({ status, signal, interrupted });
    });
  });
}

/**
 * One line when a step begins, one when it ends, and one every ten seconds between. A failing step shows all its output.
 * `programs` run one after the other; those marked optional may fail.
 */
export async function runStep(name, programs) {
  const startMs = performance.now();
  const logPath = join(STAMPS, `${name.split(' (')[0].replaceAll(' ', '-')}.log`);
  const log = openSync(logPath, 'w');
  say(`${name} …`);
  let latest = '';
  const heartbeat = setInterval(
    () => say(`  ${seconds(startMs)} ${latest.slice(0, 100)}`.trimEnd()),
    HEARTBEAT_MS,
  );
  try {
    for (const { command, args, optional = false } of programs) {
      writeSync(log, `$ ${[command, ...args].join(' ')}\n`);
      const { status, signal, interrupted } = await runProgram(command, args, log, (line) => {
        latest = line;
      });
      if (interrupted) throw new SetupError(`interrupted during: ${name}. Run it again to go on`, 130);
      if (status !== 0 && !optional) {
        if (!VERBOSE) process.stderr.write(readFileSync(logPath));
        const how = signal ? `was killed by ${signal}` : `failed with status ${status}`;
        throw new SetupError(
          `${name}: '${command}' ${how}; its output is above and in ${relative(ROOT, logPath)}`,
        );
      }
    }
  } finally {
    clearInterval(heartbeat);
    closeSync(log);
  }
  say(`${name}: done in ${seconds(startMs)}`);
}

// --------------------------------------------------------------------------------------------- stamps and the lock

/** What the last run of a part left behind, or undefined when it never finished. */
export function readStamp(part) {
  try {
    return JSON.parse(readFileSync(join(STAMPS, `${part}.json`), 'utf8'));
  } catch {
    return undefined;
  }
}

export function writeStamp(part, stamp) {
  writeFileSync(join(STAMPS, `${part}.json`), `${JSON.stringify(stamp)}\n`);
}

export function removeStamp(part) {
  rmSync(join(STAMPS, `${part}.json`), { force: true });
}

/** Files below `folder` for which `wanted(name)` holds, sorted; build outputs are no sources. */
export function filesBelow(folder, wanted) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) {
        return ['build', 'node_modules', 'fixtures'].includes(entry.name) ? [] : filesBelow(path, wanted);
      }
      return wanted(entry.name) ? [path] : [];
    });
}

export function hashFiles(paths, ...also) {
  const hash = createHash('sha256').update(also.join('\0'));
  for (const path of paths) {
    if (existsSync(path)) hash.update(`\0${relative(ROOT, path)}\0`).update(readFileSync(path));
  }
  return hash.digest('hex');
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** The process that holds the lock, or undefined when it was just released. */
function lockOwner(path) {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Creates the lock with our process number in it, at one stroke; false when it exists. */
function takeLock(path) {
  const own = `${path}.${process.pid}`;
  writeFileSync(own, `${process.pid}`);
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    return false;
  } finally {
    rmSync(own);
  }
}

/** Two set-ups at once would build into the same folders: the second waits. A lock of a dead process is taken over. */
export async function withLock(work) {
  mkdirSync(STAMPS, { recursive: true });
  const path = join(STAMPS, 'lock');
  for (let told = false; !takeLock(path); ) {
    const owner = lockOwner(path);
    if (owner === undefined) continue;
    if (!isAlive(owner)) {
      rmSync(path, { force: true });
      continue;
    }
    if (!told) say(`waiting for the set-up of process ${owner}; if there is none, remove .setup/lock`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
  }
}
