// Where a queue is: the address of a Redis server and the name of the job on it, as they are written and as they are shown.

import { OperatingError } from '../../offload/index.js';

export interface QueueAddress {
  /** With the password, where it has one: never shown. */
  readonly url: string;
  /** Without it. */
  readonly shown: string;
  /** Names the job on that server. */
  readonly job: string;
}

const JOB_NAME = /^[A-Za-z0-9._-]{1,100}$/;

/** Throws BAD_OPTION, without saying a password. */
export function queueAddress(url: string, job: string): QueueAddress {
  if (!JOB_NAME.test(job)) {
    throw new OperatingError(
      'BAD_OPTION',
      `--job is '${job}': give up to 100 letters, digits, dots, dashes and underscores`,
    );
  }
  let parsed: URL | undefined;
  try {
    parsed = new URL(url);
  } catch {
    // What is no address is refused below.
  }
  if (!parsed || !/^rediss?:$/.test(parsed.protocol) || parsed.hostname === '') {
    throw new OperatingError(
      'BAD_OPTION',
      '--queue is no address of a Redis server: write it as redis://host:6379, or rediss:// for TLS',
    );
  }
  const shown = `${parsed.protocol}//${parsed.hostname}:${parsed.port || 6379}${parsed.pathname}`;
  return { url, shown: shown.replace(/\/$/, ''), job };
}

/** What everything of a job on the server is named with. */
export const PREFIX = 'zero-inference';

/** A job that is submitted again under its name is another one: nothing of the one before reaches it. */
export function queueName(job: string, id: string): string {
  return `${job}-${id}`;
}

/** Keys that are not BullMQ's own. */
export function recordKey(job: string): string {
  return `${PREFIX}:job:${job}`;
}

/** One bit per lease whose results are safe elsewhere. */
export function collectedKey(job: string, id: string): string {
  return `${PREFIX}:collected:${queueName(job, id)}`;
}

/** Workers by when they were last heard of, and what they say. */
export function workersKey(job: string, id: string): string {
  return `${PREFIX}:workers:${queueName(job, id)}`;
}
