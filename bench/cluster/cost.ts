// What does the queue cost for 1,000 hosts and 10⁸ prompts? Each step's cost per part, measured on a real server, times its count.
//
// node dist/bench/cluster/cost.js [--parts 2000] [--characters 1000] [--rate 10]
//
// A model has no part in it: parts of prompts are submitted, leased, renewed, completed with results of that length and collected.
// What is counted is the time of the server's only thread, and the bytes that it takes and sends.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { queueAddress } from '../../src/queue/address.js';
import { countsOf } from '../../src/queue/bull.js';
import { CHUNK_PROMPTS } from '../../src/queue/chunk.js';
import { collectResults } from '../../src/queue/collection.js';
import { QueueConnection } from '../../src/queue/connection.js';
import { type HeldChunk, Leases } from '../../src/queue/leases.js';
import { asked, createJob, type JobRecord } from '../../src/queue/record.js';
import { submitPrompts } from '../../src/queue/submission.js';
import { sayOfWorker } from '../../src/queue/workers.js';
import { startRedis } from '../../test/helpers/redis-server.js';

const { values } = parseArgs({
  options: {
    parts: { type: 'string', default: '2000' },
    characters: { type: 'string', default: '1000' },
    rate: { type: 'string', default: '10' },
    port: { type: 'string', default: '7519' },
    dir: { type: 'string', default: 'out/bench/cluster-cost' },
  },
});
const [parts, characters, textsPerSecond] = [values.parts, values.characters, values.rate].map(Number) as [
  number,
  number,
  number,
];
const HOSTS = 1000;
const PROMPTS = 1e8;
const LEASE_MS = 30_000;
/** As `src/cli/queue/work.ts` has them. */
const SAY_EVERY_SECONDS = 2 + 0.01 * HOSTS;
const HELD_SECONDS = 120;

const folder = join(process.cwd(), values.dir);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const server = startRedis(Number(values.port), folder);
const stop = new AbortController();
const address = queueAddress(`redis://127.0.0.1:${values.port}`, 'cost');
const connection = new QueueConnection(address, { tell: () => undefined, signal: stop.signal });

interface Cost {
  /** The time of the server's thread. */
  readonly microseconds: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly storedBytes: number;
  /** Processor time of whoever asks. */
  readonly ownMicroseconds: number;
}

async function facts(): Promise<Map<string, number>> {
  const said = await connection.ask(() => connection.redis.info());
  return new Map(said.split('\r\n').map((line) => [line.split(':')[0] ?? '', Number(line.split(':')[1])]));
}

/** What it takes per piece. */
async function costOf(pieces: number, work: () => Promise<void>): Promise<Cost> {
  const before = await facts();
  const begin = process.cpuUsage();
  await work();
  const own = process.cpuUsage(begin);
  const after = await facts();
  const grown = (name: string) => (after.get(name) ?? Number.NaN) - (before.get(name) ?? Number.NaN);
  const seconds = grown('used_cpu_user_main_thread') + grown('used_cpu_sys_main_thread');
  return {
    microseconds: (seconds * 1e6) / pieces,
    bytesIn: grown('total_net_input_bytes') / pieces,
    bytesOut: grown('total_net_output_bytes') / pieces,
    storedBytes: grown('used_memory') / pieces,
    ownMicroseconds: (own.user + own.system) / pieces,
  };
}

const record: JobRecord = {
  id: 'cost',
  version: '0',
  settings: {},
  generation: {},
  sizes: {
    prompts: parts * CHUNK_PROMPTS,
    samples: 1,
    contextTokens: 1,
    promptTokens: 1,
    newTokens: 1,
    history: false,
  },
};
const text = 'x'.repeat(characters);
function* prompts(): Generator<{ readonly text: string }, void> {
  for (let i = 0; i < record.sizes.prompts; i++) yield { text };
}

try {
  await createJob(asked(connection), record);
  const submit = await costOf(parts, () =>
    submitPrompts(connection, { record, prompts: prompts(), roomBytes: Number.POSITIVE_INFINITY }),
  );
  const leases = new Leases<{ readonly text: string }>(connection, {
    id: record.id,
    leaseMs: LEASE_MS / 10,
    onLost: () => undefined,
  });
  const held: HeldChunk<{ readonly text: string }>[] = [];
  await leases.start();
  const lease = await costOf(parts, async () => {
    for (let chunk = await leases.take(); chunk; chunk = await leases.take()) held.push(chunk);
  });
  // A tenth of the usual lease: so many turns of its thread.
  const turns = 8;
  const renew = await costOf(held.length * turns, () => setTimeout((turns * LEASE_MS) / 40));
  const lines = Array.from({ length: CHUNK_PROMPTS }, (_, index) => ({
    index,
    text,
    token_ids: [],
    new_tokens: 1,
  }));
  const complete = await costOf(parts, async () => {
    for (const chunk of held) await leases.complete(chunk, { lines });
  });
  const told = 500;
  const tell = await costOf(told, async () => {
    for (let i = 0; i < told; i++) {
      const said = { name: `host${i}`, since: 0, texts: i, passes: i, textsPerSecond: 1, open: i };
      await sayOfWorker(connection, record.id, said);
      await countsOf(leases.queue);
    }
  });
  await leases.close();
  let collected = 0;
  const collect = await costOf(parts, async () => {
    await collectResults(connection, {
      record,
      keep: (results) => {
        collected += results.length;
      },
      isComplete: () => collected === parts,
    });
  });
  const steps = { submit, lease, complete, collect };
  const round = (cost: Cost) =>
    Object.fromEntries(Object.entries(cost).map(([name, value]) => [name, Number(value.toFixed(1))]));
  for (const [name, cost] of Object.entries({ ...steps, renew, tell })) {
    process.stdout.write(`${name}: ${JSON.stringify(round(cost))}\n`);
  }
  const seconds = PROMPTS / HOSTS / textsPerSecond;
  const partsPerSecond = (HOSTS * textsPerSecond) / CHUNK_PROMPTS;
  const perPart = Object.values(steps).reduce((sum, { microseconds }) => sum + microseconds, 0);
  const bytesPerPart = Object.values(steps).reduce(
    (sum, { bytesIn, bytesOut }) => sum + bytesIn + bytesOut,
    0,
  );
  const heldParts = Math.ceil((HELD_SECONDS * textsPerSecond) / CHUNK_PROMPTS) * HOSTS;
  const shares = {
    parts: (partsPerSecond * perPart) / 1e6,
    renewal: (heldParts * renew.microseconds * (4 / (LEASE_MS / 1e3))) / 1e6,
    heartbeats: (HOSTS / SAY_EVERY_SECONDS) * (tell.microseconds / 1e6),
  };
  const busy = shares.parts + shares.renewal + shares.heartbeats;
  const percent = (share: number) => `${(share * 100).toFixed(2)} %`;
  process.stdout.write(
    `${HOSTS} hosts of ${textsPerSecond} texts a second, ${PROMPTS} prompts of ${characters} characters: ` +
      `${(seconds / 3600).toFixed(1)} h; the server's thread is busy ${percent(busy)} of it (parts ${percent(shares.parts)}, ` +
      `renewal of ${heldParts} leases ${percent(shares.renewal)}, workers' words ${percent(shares.heartbeats)}), ` +
      `${((partsPerSecond * bytesPerPart) / 1e6).toFixed(1)} MB/s pass it; it would be full at ` +
      `${Math.round((HOSTS * textsPerSecond) / busy)} texts a second. One collector is ` +
      `busy ${percent((partsPerSecond * collect.ownMicroseconds) / 1e6)} of it, without its drive\n`,
  );
} finally {
  stop.abort();
  connection.close();
  server.kill('SIGKILL');
}
