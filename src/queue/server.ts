// Whether a server is one that keeps a queue: new enough, and one that forgets nothing by itself.

import { OperatingError } from '../../offload/index.js';
import type { Asked } from './record.js';

/** The oldest that has every command which BullMQ and this program use. */
const OLDEST = [6, 2] as const;

/**
 * Sentences about what a job may suffer from. Throws QUEUE_FAILED where the server would lose prompts or cannot do its part. One
 * that does not tell of itself is taken as it is.
 */
export async function checkServer({ redis, address, ask }: Asked): Promise<readonly string[]> {
  const said = await ask(() => redis.info().catch(nothingWhereForbidden));
  const facts = new Map(said.split(/\r?\n/).map((line) => line.split(/:(.*)/s, 2) as [string, string]));
  const version = facts.get('redis_version');
  if (version !== undefined && isOlder(version)) {
    throw refused(address.shown, `is version ${version}: it has to be ${OLDEST.join('.')} or later`);
  }
  const policy = facts.get('maxmemory_policy') ?? 'noeviction';
  // Without a limit nothing is ever evicted, until somebody sets one.
  if (policy !== 'noeviction' && facts.get('maxmemory') !== '0') {
    throw refused(
      address.shown,
      `drops keys when its memory is full (maxmemory-policy ${policy}), and prompts and results with them: set ` +
        'maxmemory-policy noeviction, and submit and workers wait where it is full',
    );
  }
  if (facts.get('aof_enabled') !== '0') return [];
  return [
    `the queue at ${address.shown} keeps no log of what it is told (appendonly no): a restart of it loses the job, whose ` +
      'submission then has to be repeated',
  ];
}

function nothingWhereForbidden(error: unknown): string {
  if (error instanceof Error && /NOPERM|unknown command/i.test(error.message)) return '';
  throw error;
}

function isOlder(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1]);
}

function refused(shown: string, why: string): OperatingError {
  return new OperatingError('QUEUE_FAILED', `the queue at ${shown} ${why}`);
}
