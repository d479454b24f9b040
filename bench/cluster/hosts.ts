// Hosts for benchmarks of a queue: network namespaces of this machine on one bridge, the first of which has a Redis server.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { randomFrom } from '../random.js';

/** The program. */
export const MAIN = join(import.meta.dirname, '../../src/main.js');
const PORT = 6379;

function run(...words: readonly string[]): void {
  const [command = '', ...rest] = words;
  execFileSync(command, rest, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** What a command said, and how it ended. */
export interface Ended {
  readonly status: number | null;
  readonly logs: readonly string[];
  readonly stdout: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Whether it has said so. */
  said(words: string): boolean;
}

/** Needs the rights to make namespaces. Nothing of it is seen outside of them, and `close` takes everything away. */
export class Hosts {
  readonly queue = `redis://10.77.0.1:${PORT}`;
  readonly #names: readonly string[];
  readonly #folder: string;
  readonly #children = new Set<ChildProcess>();
  #server: ChildProcess | undefined;

  /** @param count without the one that has the server */
  constructor(count: number, folder: string) {
    this.#folder = folder;
    mkdirSync(folder, { recursive: true });
    this.#names = Array.from({ length: count + 1 }, (_, i) => `zi${process.pid}-${i}`);
    const [head = ''] = this.#names;
    for (const name of this.#names) {
      run('ip', 'netns', 'add', name);
      run('ip', '-n', name, 'link', 'set', 'lo', 'up');
    }
    run('ip', '-n', head, 'link', 'add', 'bridge', 'type', 'bridge');
    run('ip', '-n', head, 'addr', 'add', '10.77.0.1/24', 'dev', 'bridge');
    run('ip', '-n', head, 'link', 'set', 'bridge', 'up');
    for (const [i, name] of this.#names.entries()) {
      if (i === 0) continue;
      run('ip', '-n', head, 'link', 'add', `to${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
      run('ip', '-n', head, 'link', 'set', `to${i}`, 'master', 'bridge', 'up');
      run('ip', '-n', name, 'addr', 'add', `10.77.0.${i + 1}/24`, 'dev', 'eth0');
      run('ip', '-n', name, 'link', 'set', 'eth0', 'up');
    }
  }

  /** Resolves when it answers; after a kill, with what it has on the drive. */
  async startServer(): Promise<void> {
    const words = [
      '--port',
      `${PORT}`,
      '--bind',
      '10.77.0.1',
      '--protected-mode',
      'no',
      '--dir',
      this.#folder,
    ];
    const log = ['--save', '', '--appendonly', 'yes', '--logfile', join(this.#folder, 'redis.log')];
    this.#server = spawn('ip', ['netns', 'exec', this.#names[0] ?? '', 'redis-server', ...words, ...log], {
      stdio: 'ignore',
    });
    for (;;) {
      await setTimeout(100);
      try {
        const [head = ''] = this.#names;
        const answer = execFileSync('ip', ['netns', 'exec', head, 'redis-cli', '-h', '10.77.0.1', 'ping']);
        if (String(answer).startsWith('PONG')) return;
      } catch {
        // It has not begun to listen.
      }
    }
  }

  async killServer(): Promise<void> {
    const server = this.#server;
    const over = new Promise((resolve) => server?.once('exit', resolve));
    server?.kill('SIGKILL');
    await over;
  }

  /** What the server says of itself. */
  ask(...words: readonly string[]): string {
    const [head = ''] = this.#names;
    return String(execFileSync('ip', ['netns', 'exec', head, 'redis-cli', '-h', '10.77.0.1', ...words]));
  }

  /** Runs this program on a host. `ip netns exec` becomes the program, so that signals reach it. */
  start(host: number, words: readonly string[]): Running {
    return this.startProgram(host, [process.execPath, MAIN, ...words]);
  }

  startProgram(host: number, program: readonly string[]): Running {
    const name = this.#names[host] ?? '';
    const child = spawn('ip', ['netns', 'exec', name, ...program], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#children.add(child);
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text: Buffer) => {
      stdout += String(text);
    });
    child.stderr.on('data', (text: Buffer) => {
      stderr += String(text);
    });
    const ended = new Promise<Ended>((resolve) => {
      child.once('close', (status) => {
        this.#children.delete(child);
        const logs = stderr
          .split('\n')
          .filter((line) => line !== '')
          .map((line) => (line.startsWith('{') ? (JSON.parse(line) as { msg: string }).msg : line));
        resolve({ status, logs, stdout });
      });
    });
    return { child, ended, said: (text) => stderr.includes(text) };
  }

  /** Bytes that the first host has sent to all others. */
  sentBytes(): number {
    const text = execFileSync('ip', ['-n', this.#names[0] ?? '', '-s', '-j', 'link'], { encoding: 'utf8' });
    const links = JSON.parse(text) as { ifname: string; stats64: { tx: { bytes: number } } }[];
    return links.reduce((sum, { ifname, stats64 }) => sum + (/^to\d/.test(ifname) ? stats64.tx.bytes : 0), 0);
  }

  /** Nothing passes in either direction, and nobody is told. */
  async cut(host: number, ms: number): Promise<void> {
    const table = (how: string) => {
      for (const chain of ['INPUT', 'OUTPUT']) {
        run('ip', 'netns', 'exec', this.#names[host] ?? '', 'iptables', how, chain, '-j', 'DROP');
      }
    };
    table('-A');
    try {
      await setTimeout(ms);
    } finally {
      table('-D');
    }
  }

  close(): void {
    for (const child of [...this.#children, this.#server]) child?.kill('SIGKILL');
    for (const name of this.#names) run('ip', 'netns', 'del', name);
  }
}

/** Pieces of a text, of different length. */
export function writePrompts(path: string, count: number): void {
  const text = readFileSync(
    join(import.meta.dirname, '../../../test/fixtures/text/tinyshakespeare.txt'),
    'utf8',
  );
  const random = randomFrom(1);
  const lines = Array.from({ length: count }, (_, id) => {
    const begin = Math.floor(random() * (text.length - 100));
    return `${JSON.stringify({ prompt: text.slice(begin, begin + 8 + Math.floor(random() * 32)), id })}\n`;
  });
  writeFileSync(path, lines.join(''));
}

/** Lines of results in the order of their prompts. */
export function inOrder(path: string): string[] {
  const index = (line: string) => (JSON.parse(line) as { readonly index: number }).index;
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .sort((a, b) => index(a) - index(b));
}

/** Passes that a command says it has made. */
export function passesOf({ logs }: Ended): number {
  return Number(
    /made [\d,]+ texts? in ([\d,]+) pass/.exec(logs.join('\n'))?.[1]?.replaceAll(',', '') ?? Number.NaN,
  );
}
