// The workers of a job, as the server knows them: who was heard of lately, and what each says of itself.

import { workersKey } from './address.js';
import type { QueueConnection } from './connection.js';

/** What a worker says of itself. */
export interface WorkerSaid {
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  readonly texts: number;
  readonly passes: number;
  readonly textsPerSecond: number;
  /** Texts that it holds and has not made. */
  readonly open: number;
}

/** One that was not heard of for so long does not count. */
const SILENT_MS = 60_000;

export async function sayOfWorker(
  { redis, address }: QueueConnection,
  id: string,
  said: WorkerSaid,
): Promise<number> {
  const key = workersKey(address.job, id);
  const now = Date.now();
  const results = await redis
    .pipeline()
    .zadd(key, now, said.name)
    .hset(`${key}:said`, said.name, JSON.stringify(said))
    .zcount(key, now - SILENT_MS, '+inf')
    .exec();
  return Number(results?.[2]?.[1] ?? 1);
}

export async function workersOf({ redis, address }: QueueConnection, id: string): Promise<WorkerSaid[]> {
  const key = workersKey(address.job, id);
  const names = await redis.zrangebyscore(key, Date.now() - SILENT_MS, '+inf');
  const said = names.length > 0 ? await redis.hmget(`${key}:said`, ...names) : [];
  return said.flatMap((text) => (text === null ? [] : [JSON.parse(text) as WorkerSaid]));
}

/** It has left in order. */
export async function forgetWorker(
  { redis, address }: QueueConnection,
  id: string,
  name: string,
): Promise<void> {
  await redis.zrem(workersKey(address.job, id), name);
}
