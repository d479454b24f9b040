// Runs the command line in a pseudo-terminal, as a person sits at it: keys are sent when the screen shows what they answer.

import { spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { HANG_MS } from './hang.js';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const CONTROL = new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]|\r`, 'g');

export const KEYS = { enter: '\r', ctrlC: '\x03', ctrlD: '\x04', ctrlZ: '\x1a', up: '\x1b[A' } as const;
/** What a shell says of a program that Ctrl-Z has stopped. */
const STOPPED_STATUS = 148;

export interface Terminal {
  /** What has been written, without control sequences, since the last call, once it matches; rejects when it never does, and shows what was there. */
  until(pattern: RegExp): Promise<string>;
  send(...keys: readonly string[]): void;
  /** The exit status. */
  readonly ended: Promise<number>;
  /** The terminal goes away under it. */
  hangUp(): void;
}

export function openTerminal(
  words: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Terminal {
  const line = [process.execPath, MAIN, ...words].map((word) => `'${word}'`).join(' ');
  // What is stopped by Ctrl-Z comes to the foreground again at once.
  const shell = `trap : HUP; set -m; ${line} 3>&-; s=$?; if [ $s = ${STOPPED_STATUS} ]; then fg; s=$?; fi; echo $s >&3`;
  const child = spawn('script', ['-qefc', shell, '/dev/null'], {
    cwd,
    stdio: ['pipe', 'pipe', 'ignore', 'pipe'],
    // `script` runs the user's shell, or sh where none is named: dash, for one, ends with its terminal and tells no status.
    env: { ...process.env, SHELL: '/bin/bash', TERM: 'xterm', NO_COLOR: '1', ...env },
  });
  const [stdin, stdout, status] = [
    child.stdin as Writable,
    child.stdout as Readable,
    child.stdio[3] as Readable,
  ];
  let [text, seen] = ['', 0];
  const listeners = new Set<() => void>();
  let raw = '';
  stdout.setEncoding('utf8').on('data', (piece: string) => {
    raw += piece;
    // What moves the cursor or ends a line; a sequence may come in two pieces.
    text = raw.replaceAll(CONTROL, '');
    for (const listener of listeners) listener();
  });
  // Not a number where the shell told none.
  const ended = textOf(status).then((line) => Number.parseInt(line, 10));
  const until = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const fail = () => reject(new Error(`${pattern} never came: ${JSON.stringify(text.slice(seen))}`));
      const timer = setTimeout(fail, HANG_MS);
      const look = () => {
        const found = pattern.exec(text.slice(seen));
        if (!found) return;
        clearTimeout(timer);
        listeners.delete(look);
        const part = text.slice(seen, seen + found.index + found[0].length);
        seen += part.length;
        resolve(part);
      };
      listeners.add(look);
      look();
    });
  return {
    until,
    send: (...keys) => void stdin.write(keys.join('')),
    ended,
    hangUp: () => void child.kill('SIGKILL'),
  };
}
