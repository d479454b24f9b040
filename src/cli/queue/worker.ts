// `worker`: makes texts for the job of a queue until there are none left; comes and goes as it likes.

import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { counted, OperatingError, type Workload } from '../../../offload/index.js';
import { Scheduler } from '../../engine/scheduler.js';
import { QueueConnection } from '../../queue/connection.js';
import { Leases } from '../../queue/leases.js';
import { asked, claimComputed, type JobRecord, readJob } from '../../queue/record.js';
import { checkServer } from '../../queue/server.js';
import { UNKNOWN_LIMITS } from '../../report/limits.js';
import { rateSentence } from '../../report/report.js';
import { loadChatTemplate } from '../../text/chat.js';
import type { CommandContext } from '../context.js';
import { decideBatch } from '../generation/auto-batch.js';
import { coderOf, type Job, vocabularyOf } from '../generation/job.js';
import type { Prompt } from '../generation/prompts.js';
import type { GenerateOptions } from '../options/generate-options.js';
import type { WorkerOptions } from '../options/queue-options.js';
import { readIdentity } from '../results/identity.js';
import { settingsOf } from '../results/resume.js';
import { checkFiles, sharedInputs } from '../results/run-files.js';
import { finishSession, type Session, withSession } from '../session.js';
import { openSource, type Source } from '../source.js';
import { packageVersion } from '../version.js';
import { checkComputed, checkModel, checkProgram, optionsOf, partSettings, readGeneration } from './job.js';
import { Work, type WorkEnd } from './work.js';

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
    if (record) await workOn(record, connection, options, context);
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

async function workOn(
  record: JobRecord,
  connection: QueueConnection,
  worker: WorkerOptions,
  context: CommandContext,
): Promise<void> {
  const generation = readGeneration(record);
  checkProgram(record, generation, worker);
  const wished = optionsOf(worker, generation);
  const needs = { tokenizer: generation.needs_tokenizer, chatTemplate: generation.needs_template };
  const source = await openSource(wished, context, needs);
  const texts = await vocabularyOf(source, needs.tokenizer);
  const { folder } = source.opened.checkpoint;
  const template = needs.chatTemplate ? await loadChatTemplate(folder) : undefined;
  const samples = generation.num_samples ?? 1;
  const uses = { tokenizer: texts.vocabulary.tokenizer !== undefined, chatTemplate: needs.chatTemplate };
  const identity = await readIdentity(source, uses, context);
  const settled = { ...texts, samples, promptsDigest: String(record.settings.prompts) };
  const { settings, computed } = partSettings(settingsOf(source, settled, wished, identity));
  checkModel(record, settings);
  const own = { ...computed, version: packageVersion() };
  checkComputed(await claimComputed(asked(connection), own), own);
  const options = await withBatch(source, wished, record, context);
  const coder = coderOf(
    { vocabulary: texts.vocabulary, template },
    options,
    source.opened.model.maxContextTokens,
    context,
  );
  const workload = workloadOf(record, options.batchSize);
  const { session, done } = await withSession({ source, options, workload, context }, async (session) => ({
    session,
    done: await workInSession(
      session,
      { ...texts, samples, coder, options },
      { record, connection, worker },
      context,
    ),
  }));
  const { work, seconds } = done;
  const figures = { texts: work.texts, passes: work.passes, new_tokens: work.newTokens, seconds };
  const made = `made ${counted(work.texts, 'text')} in ${counted(work.passes, 'pass').replace(/passs$/, 'passes')}`;
  const summary = rateSentence(made, work.newTokens, seconds);
  await finishSession({
    command: 'worker',
    source,
    session,
    options,
    context,
    limits: UNKNOWN_LIMITS,
    figures,
    summary,
  });
}

/** A batch of the longest prompts, which may come at any time. */
function workloadOf({ sizes }: JobRecord, sequences: number): Workload {
  const { contextTokens, promptTokens, newTokens, history } = sizes;
  return {
    sequences,
    contextTokens,
    promptTokens: sequences * promptTokens,
    newTokens,
    output: 'tokens',
    history,
  };
}

function withBatch(
  source: Source,
  options: GenerateOptions,
  record: JobRecord,
  context: CommandContext,
): Promise<GenerateOptions> {
  const { prompts, samples, promptTokens } = record.sizes;
  const most = Math.ceil((prompts * samples) / options.batchCount);
  if (!options.autoBatch)
    return Promise.resolve({ ...options, batchSize: Math.min(options.batchSize, most) });
  return decideBatch(source, options, { workload: workloadOf(record, 1), promptTokens, most }, context);
}

interface WorkPlace {
  readonly record: JobRecord;
  readonly connection: QueueConnection;
  readonly worker: WorkerOptions;
}

type Maker = Pick<Job, 'vocabulary' | 'endTokens' | 'samples' | 'coder'> & {
  readonly options: GenerateOptions;
};

async function workInSession(
  { engine, meter }: Session,
  { coder, options, ...job }: Maker,
  { record, connection, worker }: WorkPlace,
  { log, progress, interrupt }: CommandContext,
): Promise<{ work: Work; seconds: number }> {
  const startMs = performance.now();
  const leases = new Leases<Prompt>(connection, {
    id: record.id,
    leaseMs: worker.leaseSeconds * 1e3,
    onLost: (chunk) => work.lost(chunk),
  });
  const scheduler = new Scheduler(engine.executor, {
    batchSize: options.batchSize,
    signal: interrupt.signal,
    onPass: (pass) => {
      meter.pass(pass);
      work.passes++;
    },
  });
  const work = new Work(
    { scheduler, coder, job, options },
    {
      connection,
      record,
      leases,
      capacity: options.batchSize * options.batchCount,
      roomBytes: worker.roomBytes,
      name: `${hostname()}:${process.pid}:${randomBytes(2).toString('hex')}`,
      log: (sentence) => log.info(sentence),
      signal: interrupt.signal,
    },
  );
  // Others are to go on at once with what this worker leaves.
  const forget = interrupt.onStop(() => leases.release());
  try {
    await leases.start();
    progress.start(() => work.describe());
    meter.resume();
    const end: WorkEnd = await work.run();
    if (end === 'replaced') {
      throw new OperatingError(
        'QUEUE_FAILED',
        `job ${connection.address.job} is another one now, or was lost with the server's data: start this worker again`,
      );
    }
    return { work, seconds: (performance.now() - startMs) / 1e3 };
  } finally {
    progress.stop();
    forget();
    if (!interrupt.signal.aborted) await leases.release();
    await scheduler.close();
    await leases.close();
  }
}
