// Taking results out of the queue: a part leaves the server when its lines are safe, so that each is there at any time.

import { collectedKey } from './address.js';
import { type ChunkQueue, countsOf, openQueue, resultsOf } from './bull.js';
import { type ChunkResult, chunkNumber } from './chunk.js';
import type { QueueConnection } from './connection.js';
import { asked, forgetJob, type JobRecord, readJob } from './record.js';

const TOGETHER = 100;
const LOOK_AGAIN_MS = 500;
/** A server that has lost something still has workers for a while that will bring it. */
const PATIENCE_LOOKS = 20;

export interface CollectionWork {
  readonly record: JobRecord;
  /** Has to have these lines on the drive when it returns. They may come again after a kill. */
  readonly keep: (results: readonly ChunkResult[]) => void;
  /** Every text is kept. */
  readonly isComplete: () => boolean;
  /** Told once that the queue is empty, and that whoever submits has not said that these were all. */
  readonly onUnfinished?: () => void;
  readonly lookAgainMs?: number;
}

/** `replaced`: another job has taken its name. `lost`: the server has lost parts of it. */
export type CollectionEnd = 'complete' | 'lost' | 'replaced';

export async function collectResults(
  connection: QueueConnection,
  work: CollectionWork,
): Promise<CollectionEnd> {
  const { record } = work;
  const queue = openQueue<unknown>(connection, record.id);
  let [idleLooks, isUnfinishedTold] = [0, false];
  for (;;) {
    const taken = await takeSome(connection, queue, work);
    if (work.isComplete()) break;
    if (taken > 0) {
      idleLooks = 0;
      continue;
    }
    const job = await readJob(asked(connection));
    if (job === undefined) return 'lost';
    if (job.record.id !== record.id) return 'replaced';
    const { waiting, leased, made } = await connection.ask(() => countsOf(queue));
    idleLooks = waiting + leased + made === 0 ? idleLooks + 1 : 0;
    if (idleLooks > PATIENCE_LOOKS) {
      if (job.state === 'submitted') return 'lost';
      if (!isUnfinishedTold) work.onUnfinished?.();
      isUnfinishedTold = true;
    }
    await connection.pause(work.lookAgainMs ?? LOOK_AGAIN_MS);
  }
  const job = await readJob(asked(connection));
  // Somebody may be adding prompts that are there already.
  if (job?.record.id === record.id) {
    await forgetJob(asked(connection), record);
    await connection.ask(() => queue.obliterate({ force: true }));
  }
  return 'complete';
}

async function takeSome(
  connection: QueueConnection,
  queue: ChunkQueue<unknown>,
  { record, keep }: CollectionWork,
): Promise<number> {
  const ids = await connection.ask(() => queue.getRanges(['completed'], 0, TOGETHER - 1, true));
  const done = await resultsOf(connection, queue, ids);
  if (done.length === 0) return 0;
  keep(done.map(({ result }) => result));
  const key = collectedKey(connection.address.job, record.id);
  await connection.ask(async () => {
    const marks = connection.redis.pipeline();
    for (const { id } of done) marks.setbit(key, chunkNumber(id), 1);
    await marks.exec();
  });
  // All in one round, however far the server is. One that a question asked before has removed is no fault.
  await connection.ask(() => Promise.all(done.map(({ id }) => queue.remove(id, { removeChildren: false }))));
  return done.length;
}
