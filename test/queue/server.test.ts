// Servers that would lose prompts, and workers that would make other texts, are refused by name before anything is taken.

import type { ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it } from 'vitest';
import { queueAddress, recordKey } from '../../src/queue/address.js';
import { collectResults } from '../../src/queue/collection.js';
import { QueueConnection } from '../../src/queue/connection.js';
import {
  type Asked,
  asked,
  createJob,
  type JobRecord,
  noteSubmitted,
  readJob,
} from '../../src/queue/record.js';
import { checkServer } from '../../src/queue/server.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { freePort, hasRedis, startRedis } from '../helpers/redis-server.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const MODEL = modelFolder('bloom');

function serverThatSays(facts: Readonly<Record<string, string>> | Error): Asked {
  const text = Object.entries(facts).map(([name, value]) => `${name}:${value}\r\n`);
  const info = () => (facts instanceof Error ? Promise.reject(facts) : Promise.resolve(text.join('')));
  const redis = { info } as unknown as Redis;
  return { redis, address: queueAddress('redis://:secret@head', 'night'), ask: (question) => question() };
}

describe('a server', () => {
  const fine = { redis_version: '7.0.15', maxmemory: '0', maxmemory_policy: 'noeviction', aof_enabled: '1' };

  it('is taken where it forgets nothing, and where it does not tell', async () => {
    const all = [fine, { ...fine, maxmemory_policy: 'allkeys-lru' }, {}, new Error('NOPERM no info for you')];
    for (const facts of all) await expect(checkServer(serverThatSays(facts))).resolves.toEqual([]);
    await expect(checkServer(serverThatSays(new Error('odd')))).rejects.toThrow('odd');
  });

  it('is warned of where a restart loses the job', async () => {
    const warnings = await checkServer(serverThatSays({ ...fine, aof_enabled: '0' }));
    expect(warnings).toEqual([expect.stringContaining('redis://head:6379 keeps no log')]);
  });

  it.each([
    [{ maxmemory: '1000000', maxmemory_policy: 'allkeys-lru' }, 'maxmemory-policy allkeys-lru'],
    [{ redis_version: '6.0.16' }, 'is version 6.0.16: it has to be 6.2 or later'],
  ])('is refused: %o', async (facts, sentence) => {
    const checking = checkServer(serverThatSays({ ...fine, ...facts }));
    await expect(checking).rejects.toMatchObject({ code: 'QUEUE_FAILED' });
    await expect(checking).rejects.toThrow(sentence);
  });
});

const servers: ChildProcess[] = [];
afterAll(() => {
  for (const server of servers) server.kill('SIGKILL');
});

describe.skipIf(!hasRedis())('with a Redis server', () => {
  it('a collection says whether a submission ended in the middle, and ends where parts or the job are lost', async () => {
    const [port, folder] = [await freePort(), newFolder()];
    servers.push(startRedis(port, folder));
    const connection = new QueueConnection(queueAddress(`redis://127.0.0.1:${port}`, 'night'), {
      tell: () => undefined,
      signal: new AbortController().signal,
    });
    const sizes = { prompts: 1, samples: 1, contextTokens: 1, promptTokens: 1, newTokens: 1, history: false };
    const record: JobRecord = { id: 'one', version: '0', settings: {}, generation: {}, sizes };
    const question = asked(connection);
    await createJob(question, record);
    const untold = () => expect.unreachable();
    const collect = (onUnfinished: () => void) =>
      collectResults(connection, {
        record,
        keep: () => undefined,
        isComplete: () => false,
        onUnfinished,
        lookAgainMs: 5,
      });
    let told = 0;
    const ended = collect(() => {
      told++;
      // Whoever submitted comes back, and what it said it had put there is not there.
      void noteSubmitted(question, 1, 'submitted');
    });
    expect([await ended, told]).toEqual(['lost', 1]);
    await connection.redis.del(recordKey('night'));
    expect(await collect(untold)).toBe('lost');
    await createJob(question, { ...record, id: 'two' });
    expect(await collect(untold)).toBe('replaced');
    connection.close();
  });

  it('a wrong password, one that evicts, and workers of another version or too little memory are refused', async () => {
    const [port, folder, prompts] = [await freePort(), newFolder(), join(newFolder(), 'in.jsonl')];
    servers.push(startRedis(port, folder, ['--requirepass', 'right']));
    writeFileSync(prompts, '{"prompt_token_ids":[1,2]}\n');
    const url = `redis://:right@127.0.0.1:${port}`;
    const submit = (queue: string) =>
      runCli(['submit', '--name', MODEL, '--prompts_file', prompts, '--max_new_tokens', '4'], {
        env: { ZI_QUEUE: queue },
      });
    const [wrong, none, right] = await Promise.all([
      submit(url.replace('right', 'wrong')),
      submit(url.replace(':right@', '')),
      submit(url),
    ]);
    expect([wrong.status, none.status, right.status]).toEqual([8, 8, 0]);
    for (const { errors } of [wrong, none]) {
      expect(errors.join()).toMatch(
        /QUEUE_FAILED: the queue at redis:\/\/127.0.0.1:\d+ refuses this program/,
      );
      expect(errors.join()).not.toMatch(/wrong@/);
    }
    const redis = new Redis(url);
    const worker = (...words: string[]) =>
      runCli(['worker', '--name', MODEL, '--batch_size', '4', ...words], { env: { ZI_QUEUE: url } });
    const question: Asked = { redis, address: queueAddress(url, 'default'), ask: (one) => one() };
    const job = await readJob(question);
    const small = await worker('--dram_memory', '64KiB');
    expect([small.status, small.errors.join()]).toEqual([6, expect.stringContaining('DOES_NOT_FIT')]);
    await redis.hset(recordKey('default'), { record: JSON.stringify({ ...job?.record, version: '0.0.1' }) });
    const other = await worker();
    expect([other.status, other.errors.join()]).toEqual([
      2,
      expect.stringContaining('this worker has another version than the job (0.0.1 there'),
    ]);
    await redis.hset(recordKey('default'), { record: '{"id":3}' });
    const foreign = await worker();
    expect([foreign.status, foreign.errors.join()]).toEqual([
      8,
      expect.stringContaining('is no job of this program'),
    ]);
    await redis.config('SET', 'maxmemory', '100mb', 'maxmemory-policy', 'volatile-ttl');
    const evicting = await submit(url);
    expect([evicting.status, evicting.errors.join()]).toEqual([
      8,
      expect.stringContaining('maxmemory-policy volatile-ttl'),
    ]);
    redis.disconnect();
  });
});
