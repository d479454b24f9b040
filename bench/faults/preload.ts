// Loaded before the program (node --import): counts what a run asks of the system, and has one of these requests fail.
//
// ZI_FAULT names it as `fs.rename:2` or `native.thread:1`; without it everything is only counted. At the end the counts go
// to the file that ZI_FAULT_COUNTS names. Files of Node and of the program's own code are left alone.

import { open } from 'node:fs/promises';
import * as module from 'node:module';
import { constants } from 'node:os';
import { native } from '../../offload/port/native.js';
import type { FaultPoint } from '../../offload/port/native-addon.js';

// The modules as the program's own imports see them, once syncBuiltinESMExports() has run.
const require = module.createRequire(import.meta.url);
const fs = require('node:fs') as Record<string, unknown>;
const promises = require('node:fs/promises') as Record<string, unknown>;
const { writeFileSync } = require('node:fs') as typeof import('node:fs');

type Call = (...args: unknown[]) => unknown;

const [WISH = '', NTH = '0'] = (process.env.ZI_FAULT ?? '').split(':');
const counts: Record<string, number> = {};
let struck = false;

/** What each kind of request usually fails with. */
const ERRNO: Readonly<Record<string, 'EIO' | 'ENOSPC' | 'EACCES'>> = {
  open: 'EACCES',
  write: 'ENOSPC',
  writeFile: 'ENOSPC',
  mkdir: 'ENOSPC',
  mkdtemp: 'ENOSPC',
  truncate: 'ENOSPC',
  datasync: 'ENOSPC',
  sync: 'ENOSPC',
};

const SYNC = [
  'openSync',
  'readSync',
  'writeSync',
  'fstatSync',
  'fsyncSync',
  'ftruncateSync',
  'statSync',
  'lstatSync',
  'statfsSync',
  'readFileSync',
  'writeFileSync',
  'appendFileSync',
  'mkdirSync',
  'mkdtempSync',
  'renameSync',
  'rmSync',
  'unlinkSync',
  'realpathSync',
  'readdirSync',
  'fchmodSync',
  'chmodSync',
] as const;
const ASYNC = [
  'open',
  'readFile',
  'writeFile',
  'stat',
  'lstat',
  'statfs',
  'mkdir',
  'mkdtemp',
  'rename',
  'rm',
  'unlink',
  'link',
  'symlink',
  'readlink',
  'readdir',
  'realpath',
  'truncate',
] as const;
const CALLBACK = ['open', 'read', 'write', 'writev', 'fsync', 'stat', 'fstat'] as const;
const HANDLE = ['read', 'write', 'stat', 'sync', 'datasync', 'truncate', 'readFile', 'writeFile'] as const;

const OWN_CODE = /\/node_modules\/|\/dist\/|\/package\.json$|\.[cm]?js$|\.node$/;

/** Whether this request is the one that fails. */
function strikes(kind: string, first: unknown): boolean {
  if (OWN_CODE.test(String(first))) return false;
  const nth = (counts[kind] ?? 0) + 1;
  counts[kind] = nth;
  if (kind !== WISH || nth !== Number(NTH)) return false;
  struck = true;
  return true;
}

function failure(name: string, first: unknown): Error {
  const syscall = name.replace(/Sync$/, '');
  const code = ERRNO[syscall] ?? 'EIO';
  const path = typeof first === 'string' ? ` '${first}'` : '';
  return Object.assign(new Error(`${code}: injected, ${syscall}${path}`), {
    code,
    errno: -constants.errno[code],
    syscall,
    ...(typeof first === 'string' ? { path: first } : {}),
  });
}

/** Half of what was asked for, as the system may do at any time; undefined where there is no half. */
function halved(name: string, args: readonly unknown[], lengthAt: number): unknown[] | undefined {
  const length = args[lengthAt];
  if (typeof length !== 'number' || length < 2) return undefined;
  if (!strikes(`fs.short ${name}`, undefined)) return undefined;
  return args.map((arg, index) => (index === lengthAt ? Math.floor(length / 2) : arg));
}

for (const name of SYNC) {
  const original = fs[name] as Call;
  const lengthAt = name === 'readSync' || name === 'writeSync' ? 3 : -1;
  const patched = (...args: unknown[]) => {
    if (strikes(`fs.${name}`, args[0])) throw failure(name, args[0]);
    return original(...(halved(name, args, lengthAt) ?? args));
  };
  // Some have others as properties, such as realpathSync.native.
  fs[name] = Object.assign(patched, original);
}
for (const name of ASYNC) {
  const original = promises[name] as Call;
  promises[name] = async (...args: unknown[]) => {
    if (strikes(`fs.${name}`, args[0])) throw failure(name, args[0]);
    return original(...args);
  };
}
for (const name of CALLBACK) {
  const original = fs[name] as Call;
  fs[name] = (...args: unknown[]) => {
    const callback = args.at(-1);
    if (typeof callback === 'function' && strikes(`fs.callback ${name}`, args[0])) {
      process.nextTick(() => callback(failure(name, args[0])));
      return undefined;
    }
    return original(...args);
  };
}
const handle = await open('/dev/null');
const prototype = Object.getPrototypeOf(handle) as Record<string, unknown>;
await handle.close();
for (const name of HANDLE) {
  const original = prototype[name] as Call;
  const lengthAt = name === 'read' || name === 'write' ? 2 : -1;
  prototype[name] = async function (this: unknown, ...args: unknown[]) {
    if (strikes(`fs.handle ${name}`, undefined)) throw failure(name, undefined);
    return original.apply(this, halved(`handle ${name}`, args, lengthAt) ?? args);
  };
}
for (const key of Object.keys(counts)) delete counts[key];
module.syncBuiltinESMExports();

const [domain, point = ''] = WISH.split('.');
native().injectFault(
  domain === 'native' ? { point: point as FaultPoint, nth: Number(NTH) } : { point: 'thread', nth: 0 },
);

process.on('exit', () => {
  const { ZI_FAULT_COUNTS: path } = process.env;
  if (path === undefined) return;
  const passed = Object.entries(native().passedFaultPoints()).map(([name, count]) => [
    `native.${name}`,
    count,
  ]);
  writeFileSync(path, JSON.stringify({ counts: { ...counts, ...Object.fromEntries(passed) }, struck }));
});
