// A worker of a file's prompts: the model that the job was submitted with, and the texts of its parts.

import { counted, type Workload } from '../../../offload/index.js';
import { Scheduler } from '../../engine/scheduler.js';
import { CHUNK_PROMPTS } from '../../queue/chunk.js';
import { asked, claimComputed, type JobRecord } from '../../queue/record.js';
import { loadChatTemplate } from '../../text/chat.js';
import type { CommandContext } from '../context.js';
import { decideBatch } from '../generation/auto-batch.js';
import { coderOf, type Job, vocabularyOf } from '../generation/job.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { readIdentity } from '../results/identity.js';
import { settingsOf } from '../results/resume.js';
import { finishSession, type Session, withSession } from '../session.js';
import { openSource, type Source } from '../source.js';
import { packageVersion } from '../version.js';
import { PromptMaker } from './chunk-texts.js';
import { checkComputed, checkModel, checkProgram, optionsOf, partSettings, readGeneration } from './job.js';
import { type DoneWork, endOf, type WorkPlace, workThrough } from './work-through.js';

/** Rejects with what differs, where this worker would make other texts. */
export async function makeTexts(place: WorkPlace, context: CommandContext): Promise<void> {
  const { record, connection, worker } = place;
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
    done: await workInSession(session, { ...texts, samples, coder, options }, place, context),
  }));
  const made = `made ${counted(done.texts, 'text')}`;
  await finishSession({ command: 'worker', source, session, options, context, ...endOf(done, made) });
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

type Maker = Pick<Job, 'vocabulary' | 'endTokens' | 'samples' | 'coder'> & {
  readonly options: GenerateOptions;
};

async function workInSession(
  { engine, meter }: Session,
  { coder, options, ...job }: Maker,
  place: WorkPlace,
  context: CommandContext,
): Promise<DoneWork> {
  let passes = 0;
  const scheduler = new Scheduler(engine.executor, {
    batchSize: options.batchSize,
    signal: context.interrupt.signal,
    onPass: (pass) => {
      meter.pass(pass);
      passes++;
    },
  });
  const maker = new PromptMaker({ scheduler, coder, job, options });
  try {
    const sizes = {
      capacity: options.batchSize * options.batchCount,
      partPrompts: CHUNK_PROMPTS,
      passes: () => passes,
    };
    return await workThrough(maker, { ...place, ...sizes, meter }, context);
  } finally {
    await scheduler.close();
  }
}
