// BullMQ as this program uses it: one queue per job, whose parts are fetched and completed by hand.

import { Queue } from 'bullmq';
import { PREFIX, queueName } from './address.js';
import type { ChunkData, ChunkResult } from './chunk.js';
import type { QueueConnection } from './connection.js';

export type ChunkQueue<P> = Queue<ChunkData<P>, ChunkResult>;

/** What happened is of no use to anybody, and the server keeps it in memory. */
const KEPT_EVENTS = 100;

export function openQueue<P>({ address, redis }: QueueConnection, id: string): ChunkQueue<P> {
  const queue = new Queue<ChunkData<P>, ChunkResult>(queueName(address.job, id), {
    connection: redis,
    prefix: PREFIX,
    streams: { events: { maxLen: KEPT_EVENTS } },
    skipVersionCheck: true,
    // Whoever only looks at a job that is done leaves nothing behind.
    skipMetasUpdate: true,
  });
  // Its connection tells by itself.
  queue.on('error', () => undefined);
  return queue;
}

export interface ChunkCounts {
  readonly waiting: number;
  readonly leased: number;
  /** Made, and not collected yet. */
  readonly made: number;
}

export async function countsOf<P>(queue: ChunkQueue<P>): Promise<ChunkCounts> {
  const { wait = 0, active = 0, completed = 0 } = await queue.getJobCounts('wait', 'active', 'completed');
  return { waiting: wait, leased: active, made: completed };
}

/**
 * Results of parts that have them. Only these are asked for: BullMQ's own way to look at jobs brings each of them twice, with
 * its prompts.
 */
export async function resultsOf<P>(
  connection: QueueConnection,
  queue: ChunkQueue<P>,
  ids: readonly string[],
): Promise<{ readonly id: string; readonly result: ChunkResult }[]> {
  if (ids.length === 0) return [];
  const answers = await connection.ask(() => {
    const questions = connection.redis.pipeline();
    for (const id of ids) questions.hget(queue.toKey(id), 'returnvalue');
    return questions.exec();
  });
  return (answers ?? []).flatMap(([error, text], i) => {
    if (error) throw error;
    return typeof text === 'string' ? [{ id: ids[i] ?? '', result: JSON.parse(text) as ChunkResult }] : [];
  });
}
