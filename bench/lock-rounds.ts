// Is the lock on a folder of weights ever held twice, or left behind? Six processes want it at once, round after round,
// where a killed process has left its lock; in every fourth round the first holder is killed as well.
//
// node dist/bench/lock-rounds.js [--rounds 1000] [--processes 6] [--folder DIR]

import { type ChildProcess, fork } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { takeLock } from '../src/staging/lock.js';

const SELF = fileURLToPath(import.meta.url);
const HOLD_MS = 1;
/** No process has it: the kernel's ids end at 2^22. */
const DEAD_PID = 2 ** 22 + 1;

/** What earlier versions wrote, other machines, crashes in the middle, and anything. */
const LEFT_BEHIND = [
  JSON.stringify({ host: hostname(), pid: DEAD_PID, started: '1' }),
  JSON.stringify({ host: 'elsewhere', pid: 1, started: '' }),
  JSON.stringify({ host: hostname(), pid: 1, started: '' }),
  '',
  '{"host":',
];

type Said = 'ready' | 'held' | 'twice' | 'done';

/** One process that wants the lock whenever it is told to. */
class Contender {
  readonly #process: ChildProcess = fork(SELF, ['--contender']);
  readonly #said: Said[] = [];
  #hear: (() => void) | undefined;
  #ended = false;

  constructor() {
    this.#process.on('message', (said: Said) => this.#push(said));
    this.#process.on('exit', () => {
      this.#ended = true;
      this.#hear?.();
    });
  }

  want(folder: string, dies: boolean): void {
    this.#process.send({ folder, dies });
  }

  /** The next word; undefined when the process has ended. */
  async next(): Promise<Said | undefined> {
    while (this.#said.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#hear = resolve;
      });
    }
    return this.#said.shift();
  }

  end(): void {
    this.#process.kill('SIGKILL');
  }

  #push(said: Said): void {
    this.#said.push(said);
    this.#hear?.();
  }
}

interface Order {
  readonly folder: string;
  /** Kills itself where it would give the lock back. */
  readonly dies: boolean;
  readonly holdMs?: number;
}

function contend(): void {
  process.on('message', async ({ folder, dies, holdMs }: Order) => {
    const unlock = await takeLock(join(folder, 'lock'));
    const marker = join(folder, 'holder');
    const twice = existsSync(marker);
    writeFileSync(marker, String(process.pid));
    await sleep(HOLD_MS);
    const stolen = !existsSync(marker) || readFileSync(marker, 'utf8') !== String(process.pid);
    process.send?.(twice || stolen ? 'twice' : 'held');
    if (holdMs) await sleep(holdMs);
    rmSync(marker, { force: true });
    if (dies) process.kill(process.pid, 'SIGKILL');
    await unlock();
    process.send?.('done');
  });
  process.send?.('ready');
}

async function main(rounds: number, count: number, parent: string): Promise<void> {
  const root = mkdtempSync(join(parent, 'lock-rounds-'));
  const contenders = Array.from({ length: count }, () => new Contender());
  let [twice, orphans, kills, holders] = [0, 0, 0, 0];
  try {
    for (const contender of contenders) await contender.next();
    for (let round = 0; round < rounds; round++) {
      const folder = mkdtempSync(join(root, 'round-'));
      writeFileSync(join(folder, 'lock'), LEFT_BEHIND[round % LEFT_BEHIND.length] ?? '');
      const victim = round % 4 === 3 ? round % count : -1;
      for (const [i, contender] of contenders.entries()) contender.want(folder, i === victim);
      for (const [i, contender] of contenders.entries()) {
        for (let said = await contender.next(); said !== 'done'; said = await contender.next()) {
          holders++;
          if (said === 'twice') twice++;
          if (said !== undefined) continue;
          kills++;
          holders--;
          contenders[i] = new Contender();
          await contenders[i]?.next();
          break;
        }
      }
      // Where the last holder was killed, its lock is there until it is wanted again.
      await (await takeLock(join(folder, 'lock')))();
      orphans += readdirSync(folder).length;
      rmSync(folder, { recursive: true });
    }
  } finally {
    for (const contender of contenders) contender.end();
    rmSync(root, { recursive: true, force: true });
  }
  const figures = { rounds, processes: count, holders, killed: kills, two_holders: twice, orphans };
  process.stdout.write(`${JSON.stringify(figures)}\n`);
  process.exitCode = twice + orphans === 0 ? 0 : 1;
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '1000' },
    processes: { type: 'string', default: '6' },
    folder: { type: 'string', default: tmpdir() },
    contender: { type: 'boolean', default: false },
  },
});
if (values.contender) contend();
else await main(Number(values.rounds), Number(values.processes), values.folder);
