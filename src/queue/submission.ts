// Putting a job's prompts into the queue: each part once, however often it is begun, and no more than the server has room for.

import { collectedKey } from './address.js';
import { countsOf, openQueue } from './bull.js';
import { type Chunk, chunkId, chunksOf } from './chunk.js';
import type { QueueConnection } from './connection.js';
import { asked, type JobRecord, noteSubmitted } from './record.js';

/** Parts that go to the server together. */
const TOGETHER = 64;
const LOOK_AGAIN_MS = 1000;

export interface SubmissionWork<P> {
  readonly record: JobRecord;
  readonly prompts: Iterable<P>;
  /** Prompts may take so much of the server's memory before workers have taken them. */
  readonly roomBytes: number;
  readonly onProgress?: (prompts: number) => void;
  /** Told, once, that the queue is full. */
  readonly onFull?: () => void;
}

/** Resolves when all prompts are there. */
export async function submitPrompts<P>(connection: QueueConnection, work: SubmissionWork<P>): Promise<void> {
  const { record } = work;
  const question = asked(connection);
  const key = collectedKey(connection.address.job, record.id);
  const collected = (await connection.ask(() => connection.redis.getBuffer(key))) ?? Buffer.alloc(0);
  const isCollected = (number: number) => (((collected[number >> 3] ?? 0) >> (7 - (number & 7))) & 1) === 1;
  const queue = openQueue<P>(connection, record.id);
  let [submitted, sentBytes, sentChunks, isFull] = [0, 0, 0, false];
  const send = async (chunks: readonly Chunk<P>[]) => {
    const missing = chunks.filter(({ number }) => !isCollected(number));
    for (;;) {
      const { waiting } = await connection.ask(() => countsOf(queue));
      if (waiting === 0 || (waiting / Math.max(1, sentChunks)) * sentBytes < work.roomBytes) break;
      if (!isFull) work.onFull?.();
      isFull = true;
      await connection.pause(LOOK_AGAIN_MS);
    }
    await connection.ask(() =>
      queue.addBulk(
        missing.map(({ number, prompts }) => ({
          name: 'prompts',
          data: { prompts },
          opts: { jobId: chunkId(number) },
        })),
      ),
    );
    for (const { characters, prompts } of chunks) {
      sentBytes += characters;
      submitted += prompts.length;
    }
    sentChunks += chunks.length;
    await noteSubmitted(question, submitted, 'submitting');
    work.onProgress?.(submitted);
  };
  let some: Chunk<P>[] = [];
  for (const chunk of chunksOf(work.prompts)) {
    some.push(chunk);
    if (some.length < TOGETHER) continue;
    await send(some);
    some = [];
  }
  if (some.length > 0) await send(some);
  await noteSubmitted(question, submitted, 'submitted');
}
