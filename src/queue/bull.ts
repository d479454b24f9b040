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
