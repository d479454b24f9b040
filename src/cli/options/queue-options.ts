// Options of the commands around a queue: where it is, what a job is, and what a worker, a look or a collection wants.

import { GiB } from '../../../offload/index.js';
import { type QueueAddress, queueAddress } from '../../queue/address.js';
import { type GenerateOptions, readGenerateOptions } from './generate-options.js';
import { badOption, type OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';

const DEFAULT_JOB = 'default';
export const DEFAULT_ROOM_BYTES = GiB;
const MOST_SEQUENCES = 65_536;

export interface SubmitOptions {
  readonly address: QueueAddress;
  readonly generation: GenerateOptions;
  /** What prompts may take of the server's memory before they are taken. */
  readonly roomBytes: number;
}

export interface WorkerOptions extends SharedOptions {
  readonly address: QueueAddress;
  /** Undefined: auto. */
  readonly batchSize: number | undefined;
  readonly leaseSeconds: number;
  /** What results may take of the server's memory before they are collected. */
  readonly roomBytes: number;
}

export interface StatusOptions {
  readonly address: QueueAddress;
  readonly json: boolean;
}

export interface CollectOptions {
  readonly address: QueueAddress;
  readonly output: string;
  readonly resume: boolean;
  readonly overwrite: boolean;
}

/** The address may have a password in it, which should not stand where every user of the machine can read it. */
export function readAddress(options: OptionReader): QueueAddress {
  const url = options.path('queue') ?? process.env.ZI_QUEUE;
  if (!url) {
    throw badOption(
      '--queue is missing: give the address of a Redis server as redis://host:6379, or in ZI_QUEUE',
    );
  }
  return queueAddress(url, options.path('job') ?? DEFAULT_JOB);
}

/** Throws BAD_OPTION. */
export function readSubmitOptions(options: OptionReader): SubmitOptions {
  const address = readAddress(options);
  if (!options.has('prompts_file')) throw badOption('submit takes a file of prompts: add --prompts_file');
  const roomBytes = options.bytes('queue_memory') ?? DEFAULT_ROOM_BYTES;
  return { address, generation: readGenerateOptions(options), roomBytes };
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readWorkerOptions(options: OptionReader): WorkerOptions {
  const address = readAddress(options);
  const shared = readSharedOptions(options);
  const auto = options.text('batch_size') === 'auto';
  return {
    ...shared,
    address,
    batchSize: auto
      ? undefined
      : (options.count('batch_size', 1, MOST_SEQUENCES) ?? shared.dsConfig?.batchSize),
    leaseSeconds: options.count('lease_seconds', 2, 86_400) ?? 30,
    roomBytes: options.bytes('queue_memory') ?? DEFAULT_ROOM_BYTES,
  };
}

/** Throws BAD_OPTION. */
export function readStatusOptions(options: OptionReader): StatusOptions {
  return { address: readAddress(options), json: options.flag('json') };
}

/** Throws BAD_OPTION. */
export function readCollectOptions(options: OptionReader): CollectOptions {
  const output = options.path('output');
  if (output === undefined) throw badOption('collect writes to --output: add it');
  options.exclude('resume', 'overwrite', 'results are either gone on with or made anew');
  return {
    address: readAddress(options),
    output,
    resume: options.flag('resume'),
    overwrite: options.flag('overwrite'),
  };
}
