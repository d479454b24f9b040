// The job of servers that hand requests to workers: what all answers to them depend on.

import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { OperatingError } from '../../../offload/index.js';
import type { QueueConnection } from '../../queue/connection.js';
import { asked, createJob, type JobRecord, readJob } from '../../queue/record.js';
import type { FrontOptions } from '../options/front-options.js';
import { firstDifference } from '../results/file.js';
import { packageVersion } from '../version.js';
import { otherJob } from './job.js';

const ANSWERS = z.strictObject({
  served_model_name: z.array(z.string()),
  max_context: z.int().positive().nullable(),
  generation_config: z.boolean(),
  tool_parser: z.string().nullable(),
  reasoning_parser: z.string().nullable(),
});

/** How requests are answered, whichever worker does. */
export type Answers = z.infer<typeof ANSWERS>;

const NO_SIZES = { prompts: 0, samples: 1, contextTokens: 1, promptTokens: 1, newTokens: 1, history: true };

/** Throws QUEUE_FAILED where the record is no such thing. */
export function readAnswers({ generation }: JobRecord): Answers {
  const parsed = ANSWERS.safeParse(generation);
  if (parsed.success) return parsed.data;
  throw new OperatingError(
    'QUEUE_FAILED',
    'the job in the queue does not say how its requests are answered: start its server with another --job',
  );
}

/** The one that is there, which other servers may share, or a new one. Throws BAD_OPTION where it is another kind of job. */
export async function openRequestsJob(
  connection: QueueConnection,
  options: FrontOptions,
): Promise<JobRecord> {
  const { address } = connection;
  const wanted: JobRecord = {
    kind: 'requests',
    id: randomBytes(6).toString('hex'),
    version: packageVersion(),
    settings: {},
    generation: answersOf(options),
    sizes: NO_SIZES,
  };
  for (;;) {
    const before = await readJob(asked(connection));
    if (before && before.state !== 'collected') {
      checkSame(before.record, wanted, address.job);
      return before.record;
    }
    // Where another server is quicker, its job is looked at.
    if (await createJob(asked(connection), wanted)) return wanted;
  }
}

function answersOf(options: FrontOptions): Answers {
  return {
    served_model_name: [...options.servedNames],
    max_context: options.maxContext ?? null,
    generation_config: options.generationConfig,
    tool_parser: options.toolParser ?? null,
    reasoning_parser: options.reasoningParser ?? null,
  };
}

function checkSame(before: JobRecord, now: JobRecord, job: string): void {
  if (before.kind !== 'requests') {
    throw new OperatingError(
      'BAD_OPTION',
      `job ${job} is in the queue already, with the prompts of a file: give this server another --job`,
    );
  }
  const other = firstDifference(
    { version: before.version, ...before.generation },
    { version: now.version, ...now.generation },
  );
  if (other) throw otherJob(job, other, 'give the same, or another --job');
}

/** Throws BAD_OPTION for a job of servers, whose answers go to those who asked. */
export function checkPromptsJob({ kind }: JobRecord, job: string, command: string): void {
  if (kind !== 'requests') return;
  throw new OperatingError(
    'BAD_OPTION',
    `job ${job} is that of a server (serve --queue), whose answers go to its clients: give ${command} another --job`,
  );
}
