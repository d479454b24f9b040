// What the steps of set-up share: running programs with progress, stamps of finished work, and hashes.

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, delimiter, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
/** A clone has sources to build all of it from; an installed package has dist/, and builds the addon at most. */
export const IS_CLONE = existsSync(join(ROOT, 'tsconfig.json'));
export const PATH = pathWithNode(process.env.PATH ?? '');
const ENVIRONMENT = { ...process.env, PATH };
/** Stamps, logs, the lock, and what is being made. */
export const STAMPS = join(ROOT, '.setup');
const VERBOSE = process.env.ZI_VERBOSE === '1';
const HEARTBEAT_MS = 10_000;
export const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'];

/** Something the user can put right; shown as a sentence, without a stack trace. */
export class SetupError extends Error {
  constructor(message, exitStatus = 1) {
    super(message);
    this.exitStatus = exitStatus;
  }
}

/** The command that runs set-up with these options, from wherever this is. */
export function setUpCommand(...options) {
  const words = IS_CLONE
    ? ['npm run setup', ...(options.length > 0 ? ['--'] : [])]
    : [`node ${join(ROOT, 'native/setup.mjs')}`];
  return [...words, ...options].join(' ');
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

/** Path of a C++ compiler as CMake would choose it. */
export function compiler() {
  return process.env.CXX ?? ['c++', 'g++', 'clang++'].find(onPath) ?? 'c++';
}

/** After that the set-up ends, whatever the program makes of the signal. */
const PATIENCE_MS = 700;

/**
 * Runs one program of a step, in a process group of its own. Its output goes to `log`, or straight through when
 * ZI_VERBOSE=1. A signal is handed on; a program that does not end of it is killed, unless killing it would do harm.
 */
function runProgram({ command, args, cwd = ROOT, env, finishes = false }, log, onLine) {
  return new Promise((resolve, reject) => {
    let interrupted = false;
    const kill = (signal) => {
      try {
        process.kill(-child.pid, signal);
      } catch {
        // Ended already, or not ours to end (sudo).
      }
    };
    const end = () => {
      if (!finishes) kill('SIGKILL');
      say(`interrupted${finishes ? `; ${command} goes on to its end by itself` : ''}`);
      process.exit(130);
    };
    const stop = (signal) => {
      if (interrupted) end();
      interrupted = true;
      kill(signal);
      setTimeout(end, PATIENCE_MS).unref();
    };
    // Before the program starts, so that no signal finds us without; it is delivered after this function.
    for (const signal of SIGNALS) process.on(signal, stop);
    const child = spawn(command, args, {
      cwd,
      env: { ...ENVIRONMENT, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
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
      for (const name of SIGNALS) process.off(name, stop);
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
    for (const program of programs) {
      const { command, args, optional = false } = program;
      writeSync(log, `$ ${[command, ...args].join(' ')}\n`);
      const { status, signal, interrupted } = await runProgram(program, log, (line) => {
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

/** Whole or not at all. */
export function writeStamp(part, stamp) {
  const path = join(STAMPS, `${part}.json`);
  writeFileSync(`${path}.new`, `${JSON.stringify(stamp)}\n`);
  renameSync(`${path}.new`, path);
}

/** Takes the place of what is there by renaming, so that at any time one of the two is there. */
export function replaceFolder(made, path) {
  const old = join(STAMPS, `old-${basename(path)}`);
  rmSync(old, { recursive: true, force: true });
  if (existsSync(path)) renameSync(path, old);
  try {
    renameSync(made, path);
  } catch (error) {
    if (existsSync(old)) renameSync(old, path);
    throw error;
  }
  rmSync(old, { recursive: true, force: true });
}

/** Neither build outputs nor what a fresh project is made of in tests are sources. */
const NO_SOURCES = ['build', 'building', 'node-api', 'node_modules', 'fixtures', 'fresh-project'];

/** Files below `folder` for which `wanted(name)` holds, sorted. */
export function filesBelow(folder, wanted) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) {
        return NO_SOURCES.includes(entry.name) ? [] : filesBelow(path, wanted);
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
