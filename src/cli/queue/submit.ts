// `submit`: a file of prompts, checked against its model, into a queue.

import { randomBytes } from 'node:crypto';
import { counted } from '../../../offload/index.js';
import { QueueConnection } from '../../queue/connection.js';
import { asked, createJob, type JobRecord, type KeptJob, readJob } from '../../queue/record.js';
import { checkServer } from '../../queue/server.js';
import { submitPrompts } from '../../queue/submission.js';
import type { CommandContext } from '../context.js';
import { encodeJob, givenPrompts, textWishes } from '../generation/job.js';
import { withModelSampling } from '../generation/model-sampling.js';
import type { PromptList } from '../generation/prompt-list.js';
import type { Prompt } from '../generation/prompts.js';
import { badOption } from '../options/option-reader.js';
import type { SubmitOptions } from '../options/queue-options.js';
import { firstDifference } from '../results/file.js';
import { readIdentity } from '../results/identity.js';
import { promptsDigest, settingsOf } from '../results/resume.js';
import { checkFiles, sharedInputs } from '../results/run-files.js';
import { openSource } from '../source.js';
import { packageVersion } from '../version.js';
import { generationOf, otherJob, partSettings, readGeneration, sizesOf } from './job.js';
import { checkPromptsJob } from './requests-job.js';

export async function runSubmit(options: SubmitOptions, context: CommandContext): Promise<void> {
  const { address } = options;
  const { log, interrupt, progress } = context;
  checkFiles({ '--prompts_file': options.generation.promptsFile, ...sharedInputs(options.generation) }, {});
  const tell = (sentence: string) => log.warn(sentence);
  const connection = new QueueConnection(address, { tell, signal: interrupt.signal });
  try {
    const prompts = await givenPrompts(options.generation, context);
    for (const sentence of await checkServer(asked(connection))) log.warn(sentence);
    const before = await readJob(asked(connection));
    if (before) checkPromptsJob(before.record, address.job, 'submit');
    const { record, list } = await describeJob(options, prompts, before, context);
    const question = asked(connection);
    const goesOn = before !== undefined && before.state !== 'collected';
    if (goesOn) checkSame(before.record, record, address.job);
    else if (!(await createJob(question, record))) {
      throw badOption(`--job is ${address.job}, which somebody else has just submitted: give another name`);
    }
    const { prompts: count } = record.sizes;
    let submitted = 0;
    const work = submitPrompts(connection, {
      record: goesOn ? before.record : record,
      prompts: each(list),
      roomBytes: options.roomBytes,
      onProgress: (now) => {
        submitted = now;
      },
      onFull: () =>
        log.info(
          'the queue is full (--queue_memory): workers make room as they take prompts, and submit goes on then',
        ),
    });
    await progress.during(
      () => `submitting: ${submitted.toLocaleString('en')} of ${counted(count, 'prompt')}`,
      work,
    );
    log.info(
      `job ${address.job} at ${address.shown} has ${counted(count, 'prompt')}${goesOn ? ', some of which it had' : ''}`,
    );
  } finally {
    connection.close();
  }
}

async function describeJob(
  { generation: given }: SubmitOptions,
  prompts: PromptList,
  before: KeptJob | undefined,
  context: CommandContext,
): Promise<{ record: JobRecord; list: PromptList }> {
  // A seed that was drawn is drawn once: a submission that goes on takes that of the one before.
  const seed =
    before && before.state !== 'collected' ? readGeneration(before.record).sampling.seed : undefined;
  const sampling = given.seedGiven || seed === undefined ? given.sampling : { ...given.sampling, seed };
  const wishes = textWishes(prompts, given);
  const source = await openSource({ ...given, sampling } as typeof given, context, wishes);
  const options = withModelSampling(source.opened, { ...given, sampling }, context);
  const job = await encodeJob(source, prompts, options, context);
  const needs = textWishes(prompts, options);
  if (job.sizes.firstProblem) {
    const { impossible, firstProblem } = job.sizes;
    if (impossible === job.prompts.length) throw firstProblem;
    context.log.warn(
      `${counted(impossible, 'prompt')} cannot be continued, and their results will say why: ${firstProblem.message}`,
    );
  }
  if (job.sizes.drawn) context.log.info(`tokens are drawn with --seed ${options.sampling.seed}`);
  const uses = { tokenizer: job.vocabulary.tokenizer !== undefined, chatTemplate: needs.chatTemplate };
  const identity = await readIdentity(source, uses, context);
  const settled = { ...job, promptsDigest: promptsDigest(job.prompts) };
  const { settings } = partSettings(settingsOf(source, settled, options, identity));
  const record: JobRecord = {
    id: randomBytes(6).toString('hex'),
    version: packageVersion(),
    settings,
    generation: generationOf(options, needs),
    sizes: sizesOf(job),
  };
  return { record, list: job.prompts };
}

function checkSame(before: JobRecord, now: JobRecord, job: string): void {
  const other =
    firstDifference(before.settings, now.settings, ['weights']) ??
    firstDifference(
      { version: before.version, ...before.generation },
      { version: now.version, ...now.generation },
    );
  if (other) throw otherJob(job, other, 'give another --job, or collect that one first');
}

function* each(list: PromptList): Generator<Prompt, void> {
  for (let index = 0; index < list.length; index++) yield list.at(index);
}
