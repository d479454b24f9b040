// What a worker holds of a job: parts taken, renewed by a thread of their own, and completed together with their results.

import { randomUUID } from 'node:crypto';
import { type Job, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { present } from '../../offload/index.js';
import { PREFIX, queueName } from './address.js';
import { type ChunkQueue, openQueue } from './bull.js';
import type { ChunkData, ChunkResult } from './chunk.js';
import type { QueueConnection } from './connection.js';
import { Renewal } from './renewal.js';

interface Held<P> {
  readonly job: Job<ChunkData<P>, ChunkResult>;
  /** A part that was lost and taken again is another lease. */
  readonly chunk: HeldChunk<P>;
}

/** A part that this worker has. */
export interface HeldChunk<P> extends ChunkData<P> {
  readonly id: string;
}

export interface LeaseOptions {
  /** The job's. */
  readonly id: string;
  /** So long after a worker was last heard of, others take what it holds. */
  readonly leaseMs: number;
  /** Told of parts that others have taken meanwhile. */
  readonly onLost: (chunk: HeldChunk<unknown>) => void;
}

/** BullMQ gives up on parts that were taken over that often; machines that come and go are no fault of theirs. */
const NEVER = 2 ** 31 - 1;
/** As BullMQ names them: there is no such part, no lock, another lock, or it waits again. */
const GONE_CODES: readonly unknown[] = [-1, -2, -3, -6];

export class Leases<P> {
  readonly queue: ChunkQueue<P>;
  readonly #connection: QueueConnection;
  /** BullMQ closes no connection that it was given. */
  readonly #redis: Redis;
  readonly #worker: Worker<ChunkData<P>, ChunkResult>;
  readonly #renewal: Renewal;
  readonly #token = randomUUID();
  readonly #held = new Map<string, Held<P>>();

  constructor(connection: QueueConnection, { id, leaseMs, onLost }: LeaseOptions) {
    this.#connection = connection;
    this.queue = openQueue<P>(connection, id);
    this.#redis = connection.another();
    const name = queueName(connection.address.job, id);
    this.#worker = new Worker<ChunkData<P>, ChunkResult>(name, null, {
      connection: this.#redis,
      prefix: PREFIX,
      autorun: false,
      lockDuration: leaseMs,
      stalledInterval: leaseMs / 2,
      maxStalledCount: NEVER,
      skipLockRenewal: true,
      skipVersionCheck: true,
    });
    this.#worker.on('error', () => undefined);
    const keys = `${PREFIX}:${name}:`;
    this.#renewal = new Renewal({ url: connection.address.url, keys, token: this.#token, leaseMs }, (ids) => {
      for (const lost of ids) {
        const held = this.#held.get(lost);
        this.#held.delete(lost);
        if (held) onLost(held.chunk);
      }
    });
  }

  /** Parts in hand. */
  get size(): number {
    return this.#held.size;
  }

  /** Others' leases that ran out are looked for from now on. */
  async start(): Promise<void> {
    await this.#connection.ask(() => this.#worker.startStalledCheckTimer());
    await this.#connection.ask(() => this.#renewal.ready);
  }

  /** The next part; undefined where none waits. */
  async take(): Promise<HeldChunk<P> | undefined> {
    const job = await this.#connection.ask(() => this.#worker.getNextJob(this.#token, { block: false }));
    if (!job) return undefined;
    const id = present(job.id, 'name of a part');
    const chunk = { id, prompts: job.data.prompts };
    this.#held.set(id, { job, chunk });
    this.#renewal.hold(id);
    return chunk;
  }

  /** False where somebody else has taken the part meanwhile, whose results then count. */
  async complete(chunk: HeldChunk<P>, result: ChunkResult): Promise<boolean> {
    const { id } = chunk;
    const held = this.#held.get(id);
    if (held?.chunk !== chunk) return false;
    try {
      await this.#connection.ask(() => held.job.moveToCompleted(result, this.#token, false));
      return true;
    } catch (error) {
      if (!isGone(error)) throw error;
      return false;
    } finally {
      if (this.#held.get(id) === held) {
        this.#held.delete(id);
        this.#renewal.drop(id);
      }
    }
  }

  /** Gives back what is in hand, so that others need not wait for the leases to run out. Never rejects. */
  async release(): Promise<void> {
    const held = [...this.#held];
    this.#held.clear();
    await Promise.allSettled(
      held.map(async ([id, { job }]) => {
        this.#renewal.drop(id);
        await job.moveToWait(this.#token);
      }),
    );
  }

  /** Rejects where the leases can no longer be renewed. */
  get failed(): Promise<never> {
    return this.#renewal.failed;
  }

  async close(): Promise<void> {
    this.#renewal.close();
    await this.#worker.close(true).catch(() => undefined);
    this.#redis.disconnect();
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && GONE_CODES.includes(error.code);
}
