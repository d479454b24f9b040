// `worker`: makes what the job of a queue asks for until there is nothing left; comes and goes as it likes.

import { QueueConnection } from '../../queue/connection.js';
import { asked, type JobRecord, readJob } from '../../queue/record.js';
import { checkServer } from '../../queue/server.js';
import type { CommandContext } from '../context.js';
import type { WorkerOptions } from '../options/queue-options.js';
import { checkFiles, sharedInputs } from '../results/run-files.js';
import { makeTexts } from './prompt-worker.js';
import { answerRequests } from './request-worker.js';
import type { WorkPlace } from './work-through.js';

const LOOK_AGAIN_MS = 1000;

export async function runWorker(options: WorkerOptions, context: CommandContext): Promise<void> {
  const { address } = options;
  const { log, interrupt } = context;
  checkFiles(sharedInputs(options), { '--report': options.report, '--trace': options.trace }, options.name);
  const tell = (sentence: string) => log.warn(sentence);
  const connection = new QueueConnection(address, { tell, signal: interrupt.signal });
  try {
    // Whoever submits is told of what does not stop a worker.
    await checkServer(asked(connection));
    const record = await waitForJob(connection, context);
    if (record) await work({ record, connection, worker: options }, context);
    else log.info(`job ${address.job} is collected: there is nothing left to do`);
  } finally {
    connection.close();
  }
}

/** A worker may come before its job. Undefined for one that is done. */
async function waitForJob(
  connection: QueueConnection,
  { log, progress }: CommandContext,
): Promise<JobRecord | undefined> {
  const { job, shown } = connection.address;
  let isTold = false;
  const wait = async (): Promise<JobRecord | undefined> => {
    for (;;) {
      const kept = await readJob(asked(connection));
      if (kept) return kept.state === 'collected' ? undefined : kept.record;
      if (!isTold) log.info(`there is no job ${job} at ${shown} yet: waiting for submit`);
      isTold = true;
      await connection.pause(LOOK_AGAIN_MS);
    }
  };
  return progress.during(() => `waiting for job ${job}`, wait());
}

function work(place: WorkPlace, context: CommandContext): Promise<void> {
  return place.record.kind === 'requests' ? answerRequests(place, context) : makeTexts(place, context);
}
