// Requests in a queue: answered by name also to the next process, urgent ones first, and given to a server again that lost them.

import type { ChildProcess } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import { type Job, Worker } from 'bullmq';
import { afterAll, describe, expect, it } from 'vitest';
import { PREFIX, queueAddress, queueName } from '../../src/queue/address.js';
import { countsOf, openQueue } from '../../src/queue/bull.js';
import type { ChunkData, ChunkResult } from '../../src/queue/chunk.js';
import { QueueConnection } from '../../src/queue/connection.js';
import { asked, createJob, type JobRecord, readJob } from '../../src/queue/record.js';
import { RequestQueue } from '../../src/queue/requests.js';
import { freePort, hasRedis, startRedis } from '../helpers/redis-server.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const servers: ChildProcess[] = [];
afterAll(() => {
  for (const server of servers) server.kill('SIGKILL');
});

const sizes = { prompts: 0, samples: 1, contextTokens: 1, promptTokens: 1, newTokens: 1, history: false };
const record: JobRecord = { kind: 'requests', id: 'one', version: '0', settings: {}, generation: {}, sizes };

describe.skipIf(!hasRedis())('with a Redis server', () => {
  it('answers come to whoever asks by the name, whatever has ended or was lost meanwhile', async () => {
    const port = await freePort();
    servers.push(startRedis(port, newFolder()));
    const connection = new QueueConnection(queueAddress(`redis://127.0.0.1:${port}`, 'front'), {
      tell: () => undefined,
      signal: new AbortController().signal,
    });
    await createJob(asked(connection), record);
    const told: string[] = [];
    const open = () =>
      new RequestQueue<string>(connection, {
        record,
        roomBytes: 1000,
        tell: (sentence) => void told.push(sentence),
        checkMs: 200,
      });
    const queue = openQueue<string>(connection, 'one');
    const redis = connection.another();
    const worker = new Worker<ChunkData<string>, ChunkResult>(queueName('front', 'one'), null, {
      connection: redis,
      prefix: PREFIX,
      autorun: false,
    });
    const waiting = async (count: number) => {
      while ((await countsOf(queue)).waiting !== count) await setTimeout(20);
    };
    const takes = async (): Promise<Job<ChunkData<string>, ChunkResult>> =>
      (await worker.getNextJob('worker', { block: false })) ?? expect.unreachable('nothing waits');
    const answers = (job: Job<ChunkData<string>, ChunkResult>, status: number) =>
      job.moveToCompleted({ lines: [{ status }] }, 'worker', false);
    const before = open();
    const [leaving, cancelled] = [new AbortController(), new AbortController()];
    const asking = (name: string, signal: AbortSignal, isUrgent = false) => ({
      name,
      signal,
      isUrgent,
      outlives: !isUrgent,
    });
    const first = before.ask('a', asking('batch-a', leaving.signal)).catch(String);
    await waiting(1);
    const second = before.ask('b', asking('batch-b', cancelled.signal)).catch(String);
    await waiting(2);
    const urgent = before.ask('c', asking('request-c', leaving.signal, true));
    await waiting(3);
    const job = await takes();
    expect(job.data.prompts).toEqual([[0, 'c']]);
    await answers(job, 200);
    expect(await urgent).toEqual({ status: 200 });
    // Nobody wants it any more.
    cancelled.abort('cancelled');
    expect(await second).toBe('cancelled');
    await waiting(1);
    // The server forgets everything, and is given it again: the job as well, for its workers.
    await connection.redis.flushall();
    await waiting(1);
    expect(told).toEqual([expect.stringMatching(/has lost 1 requests, which are given to it again/)]);
    expect((await readJob(asked(connection)))?.record.id).toBe('one');
    // It is answered while nobody is there, and the next process asks by its name.
    before.leave();
    leaving.abort('leaving');
    expect(await first).toBe('leaving');
    before.close();
    const again = await takes();
    expect(again.data.prompts).toEqual([[0, 'a']]);
    await answers(again, 201);
    const after = open();
    const never = new AbortController().signal;
    expect(await after.ask('a', asking('batch-a', never))).toEqual({ status: 201 });
    // What is fetched leaves the server.
    while ((await countsOf(queue)).made > 0) await setTimeout(20);
    after.close();
    await worker.close(true);
    redis.disconnect();
    connection.close();
  });
});
