// The thread that renews a worker's leases: it has a connection of its own, and nothing that the worker does can hold it up.

import { parentPort, workerData } from 'node:worker_threads';
import { Redis } from 'ioredis';
import { CONNECTION } from './connection.js';
import type { FromRenewal, RenewalSetup, ToRenewal } from './renewal.js';

/**
 * A lease that ran out while the server was away, and that nobody has taken since, is the worker's again; the results of whoever
 * holds it last count, as completing a part asks for the lock.
 */
const RENEW = `
  local lost = {}
  for i = 4, #ARGV do
    local lock = ARGV[1] .. ARGV[i] .. ':lock'
    local holder = redis.call('GET', lock)
    if holder == ARGV[2] or (not holder and redis.call('LPOS', KEYS[2], ARGV[i])) then
      redis.call('SET', lock, ARGV[2], 'PX', ARGV[3])
      redis.call('SREM', KEYS[1], ARGV[i])
    else
      lost[#lost + 1] = ARGV[i]
    end
  end
  return lost`;

const { url, keys, token, leaseMs, beat, longestMs } = workerData as RenewalSetup;
const redis = new Redis(url, { ...CONNECTION, connectionName: 'zero-inference-renewal' });
// The worker's own connection tells.
redis.on('error', () => undefined);
const held = new Set<string>();
const beats = new BigInt64Array(beat);
let running = false;

async function renew(): Promise<void> {
  // A worker that has not moved for so long will not, and others are to have its prompts.
  const silentMs = Date.now() - Number(Atomics.load(beats, 0));
  if (running || held.size === 0 || silentMs > longestMs) return;
  running = true;
  try {
    const ids = [...held];
    const lost = (await redis.eval(
      RENEW,
      2,
      `${keys}stalled`,
      `${keys}active`,
      keys,
      token,
      leaseMs,
      ...ids,
    )) as string[];
    for (const id of lost) held.delete(id);
    if (lost.length > 0) tell({ lost });
  } catch {
    // It is tried again at the next turn.
  } finally {
    running = false;
  }
}

function tell(message: FromRenewal): void {
  parentPort?.postMessage(message);
}

parentPort?.on('message', (message: ToRenewal) => {
  if ('hold' in message) held.add(message.hold);
  else if ('drop' in message) held.delete(message.drop);
  else {
    redis.disconnect();
    process.exit(0);
  }
});

setInterval(() => void renew(), leaseMs / 4);
await redis.ping();
tell({ ready: true });
