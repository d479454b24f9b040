// What a server keeps of a job: what its texts depend on, what a worker has to plan for, and how far its submission is.

import { OperatingError } from '../../offload/index.js';
import { isJsonObject, type JsonObject } from '../files/json-file.js';
import { collectedKey, recordKey, workersKey } from './address.js';
import type { QueueConnection } from './connection.js';

/** How much a worker has to have room for. */
export interface JobSizes {
  readonly prompts: number;
  /** Texts for each prompt. */
  readonly samples: number;
  /** Tokens of the longest text with its prompt, those of the longest prompt, and the most new ones. */
  readonly contextTokens: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Some text looks at its tokens so far when one is chosen. */
  readonly history: boolean;
}

export interface JobRecord {
  /** `requests`: servers put them there as they come, without an end. Absent: the prompts of a file. */
  readonly kind?: 'requests' | undefined;
  /** Another one whenever a job is submitted anew. */
  readonly id: string;
  /** That of the program that submitted it; workers have the same. */
  readonly version: string;
  /** What texts depend on, by option name, without what only a worker knows. */
  readonly settings: JsonObject;
  /** How texts are made, for whoever makes them. */
  readonly generation: JsonObject;
  readonly sizes: JobSizes;
}

/** `submitting`: more prompts come. `collected`: all texts are in a file, and nothing is left to do. */
export type JobState = 'submitting' | 'submitted' | 'collected';

export interface KeptJob {
  readonly record: JobRecord;
  readonly state: JobState;
  /** Prompts that have been put into the queue. */
  readonly submitted: number;
  /** What the first worker has added to the settings. */
  readonly computed: JsonObject | undefined;
}

const STATES: readonly JobState[] = ['submitting', 'submitted', 'collected'];
/** A job that is done is remembered so long, for workers that come back. */
const KEPT_SECONDS = 24 * 3600;

/** The job of that name; undefined where there is none. Throws QUEUE_FAILED where something else has its name. */
export async function readJob({ redis, address, ask }: Asked): Promise<KeptJob | undefined> {
  const found = await ask(() => redis.hgetall(recordKey(address.job)));
  const { record, state, submitted, computed } = found;
  if (record === undefined) return undefined;
  const parsed: unknown = parsedOrNothing(record);
  const isState = STATES.find((one) => one === state);
  if (!isRecord(parsed) || !isState) {
    throw new OperatingError(
      'QUEUE_FAILED',
      `${recordKey(address.job)} at ${address.shown} is no job of this program: give another --job`,
    );
  }
  const added: unknown = computed === undefined ? undefined : parsedOrNothing(computed);
  return {
    record: parsed,
    state: isState,
    submitted: Number(submitted ?? 0),
    computed: isJsonObject(added) ? added : undefined,
  };
}

/** The parts of a connection that questions need; its methods by themselves. */
export type Asked = Pick<QueueConnection, 'redis' | 'address'> & { readonly ask: QueueConnection['ask'] };

export function asked(connection: QueueConnection): Asked {
  return {
    redis: connection.redis,
    address: connection.address,
    ask: (question) => connection.ask(question),
  };
}

function parsedOrNothing(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is JobRecord {
  if (!isJsonObject(value)) return false;
  const { id, version, settings, generation, sizes } = value;
  const texts = [id, version].every((one) => typeof one === 'string');
  return texts && isJsonObject(settings) && isJsonObject(generation) && isJsonObject(sizes);
}

/** False where another program has put a job there in the meantime. Nothing is left of one that was collected. */
export async function createJob({ redis, address, ask }: Asked, record: JobRecord): Promise<boolean> {
  const script = `
    local state = redis.call('HGET', KEYS[1], 'state')
    if state and state ~= 'collected' then return 0 end
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'record', ARGV[1], 'state', 'submitting', 'submitted', 0)
    return 1`;
  const made = await ask(() => redis.eval(script, 1, recordKey(address.job), JSON.stringify(record)));
  // A question that was asked again after a reconnection finds its own answer.
  return made === 1 || (await readJob({ redis, address, ask }))?.record.id === record.id;
}

/** @param submitted prompts so far */
export async function noteSubmitted(
  { redis, address, ask }: Asked,
  submitted: number,
  state: JobState,
): Promise<void> {
  await ask(() => redis.hset(recordKey(address.job), { submitted, state }));
}

/** What the first worker said, whoever that is. */
export async function claimComputed(
  { redis, address, ask }: Asked,
  computed: JsonObject,
): Promise<JsonObject> {
  const key = recordKey(address.job);
  await ask(() => redis.hsetnx(key, 'computed', JSON.stringify(computed)));
  const kept: unknown = parsedOrNothing((await ask(() => redis.hget(key, 'computed'))) ?? '');
  return isJsonObject(kept) ? kept : computed;
}

/** All texts are safe: what the server keeps of the job is that, for a day. */
export async function forgetJob({ redis, address, ask }: Asked, { id }: JobRecord): Promise<void> {
  const key = recordKey(address.job);
  await ask(() => redis.hset(key, { state: 'collected' satisfies JobState }));
  await ask(() => redis.expire(key, KEPT_SECONDS));
  await ask(() =>
    redis.del(
      collectedKey(address.job, id),
      workersKey(address.job, id),
      `${workersKey(address.job, id)}:said`,
    ),
  );
}
