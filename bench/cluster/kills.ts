// Does every text come exactly once, and the same, while workers are killed, stopped and cut off and the server is killed?
//
// Texts are to last as long as there are events, on a machine of any speed: while more of them are there than of the events, the
// collector stands still, and workers wait when so many results lie in the queue (--queue_memory).

import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { randomFrom } from '../random.js';
import { Hosts, inOrder, type Running, writePrompts } from './hosts.js';

const { values } = parseArgs({
  options: {
    name: { type: 'string', default: 'test/fixtures/models/stories260K' },
    prompts: { type: 'string', default: '10000' },
    tokens: { type: 'string', default: '24' },
    batch: { type: 'string', default: '4' },
    workers: { type: 'string', default: '6' },
    events: { type: 'string', default: '200' },
    restarts: { type: 'string', default: '3' },
    seed: { type: 'string', default: '1' },
    dir: { type: 'string', default: 'out/bench/cluster-kills' },
  },
});
const [workers, events, restarts] = [Number(values.workers), Number(values.events), Number(values.restarts)];
const LEASE_SECONDS = 4;
const LAST_BATCH = 64;
const PACED_ROOM = '64KiB';
const folder = join(process.cwd(), values.dir);
rmSync(folder, { recursive: true, force: true });
const hosts = new Hosts(workers, folder);
const random = randomFrom(Number(values.seed));
/** Lines that are there so far. */
function linesOf(path: string): number {
  return existsSync(path) ? readFileSync(path).reduce((sum, byte) => sum + (byte === 10 ? 1 : 0), 0) : 0;
}

const counts = { kills: 0, stops: 0, cuts: 0, restarts: 0, collectors: 0, lives: 0, takenOver: 0 };

try {
  await hosts.startServer();
  const prompts = join(folder, 'in.jsonl');
  writePrompts(prompts, Number(values.prompts));
  const texts = ['--name', values.name, '--prompts_file', prompts, '--max_new_tokens', values.tokens];
  const drawn = ['--temperature', '0.9', '--seed', '11'];
  const queue = ['--queue', hosts.queue];
  const [whole, output] = [join(folder, 'whole.jsonl'), join(folder, 'out.jsonl')];
  const submitted = await hosts.start(0, ['submit', ...queue, ...texts, ...drawn]).ended;
  if (submitted.status !== 0) throw new Error(submitted.logs.join('\n'));
  let over = false;
  const isOver = () => over;
  const happened = () => counts.kills + counts.stops + counts.cuts;
  const left = () => happened() < events;
  const collect = () => hosts.start(0, ['collect', ...queue, '--output', output, '--resume']);
  let collecting = collect();
  const collected = (async () => {
    for (;;) {
      const { status, logs } = await collecting.ended;
      if (status === 0) break;
      if (status !== null) throw new Error(logs.join('\n'));
      // It was killed.
      collecting = collect();
    }
    over = true;
  })();
  const pacing = (async () => {
    while (!isOver()) {
      await setTimeout(500);
      const share = linesOf(output) / Number(values.prompts);
      collecting.child.kill(left() && share > happened() / events ? 'SIGSTOP' : 'SIGCONT');
    }
  })();
  const live = async (host: number) => {
    while (!isOver()) {
      const isSlow = left();
      const words = [
        'worker',
        ...queue,
        '--name',
        values.name,
        '--batch_size',
        // Slow while something is still to happen, so that texts last as long as that.
        isSlow ? values.batch : `${LAST_BATCH}`,
        '--threads',
        '1',
      ];
      const lease = ['--lease_seconds', `${LEASE_SECONDS}`];
      const room = isSlow ? ['--queue_memory', PACED_ROOM] : [];
      const running: Running = hosts.start(host, [...words, ...lease, ...room]);
      counts.lives++;
      while (!running.said('ready in') && running.child.exitCode === null) await setTimeout(50);
      while (running.child.exitCode === null && running.child.signalCode === null && left()) {
        await setTimeout(random() * 1500);
        if (running.child.exitCode !== null) break;
        const which = random();
        if (which < 0.8) {
          counts.cuts++;
          // Some are shorter than a lease, some longer.
          await hosts.cut(host, 300 + random() * 1500 * LEASE_SECONDS);
        } else {
          const isKill = which < 0.95;
          counts[isKill ? 'kills' : 'stops']++;
          running.child.kill(isKill ? 'SIGKILL' : 'SIGTERM');
          break;
        }
      }
      if (isSlow && !left()) running.child.kill('SIGTERM');
      const { status, logs } = await running.ended;
      counts.takenOver += logs.filter((line) => line.includes('was taken over')).length;
      if (status !== 0 && status !== 130 && status !== null) throw new Error(logs.join('\n'));
    }
  };
  const restarting = (async () => {
    for (let i = 0; i < restarts && !isOver(); i++) {
      const begun = counts.kills + counts.cuts;
      while (counts.kills + counts.cuts < begun + events / (restarts + 2) && !isOver()) await setTimeout(200);
      await hosts.killServer();
      await setTimeout(1000 + random() * 2 * LEASE_SECONDS * 1000);
      await hosts.startServer();
      counts.restarts++;
      collecting.child.kill('SIGKILL');
      counts.collectors++;
    }
  })();
  const report = setInterval(() => {
    process.stderr.write(`${JSON.stringify({ ...counts, lines: linesOf(output) })}\n`);
  }, 20_000);
  await Promise.all([
    collected,
    pacing,
    restarting,
    ...Array.from({ length: workers }, (_, i) => live(i + 1)),
  ]);
  clearInterval(report);
  const one = hosts.start(0, ['generate', ...texts, ...drawn, '--batch_size', '256', '--output', whole]);
  if ((await one.ended).status !== 0) throw new Error((await one.ended).logs.join('\n'));
  const [ours, theirs] = [inOrder(output), inOrder(whole)];
  const same = ours.length === theirs.length && ours.every((line, i) => line === theirs[i]);
  process.stdout.write(
    `${JSON.stringify(counts)}: ${ours.length} lines, ${same ? 'the same as' : 'OTHER than'} one host's\n`,
  );
  if (!same) process.exitCode = 1;
} finally {
  hosts.close();
}
