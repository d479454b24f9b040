// `generate`: prompts in, continuations out; once, or in timed cycles.

import { counted } from '../../offload/index.js';
import { isGreedy } from '../engine/sampler.js';
import { isStdout } from '../files/output-target.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../report/limits.js';
import { performanceBlock, rateSentence, streamingBlock } from '../report/report.js';
import type { CommandContext } from './context.js';
import { withAutoBatch } from './generation/auto-batch.js';
import { makeSinks, runCycles, tellImpossible } from './generation/cycles.js';
import {
  encodeJob,
  fillJob,
  givenPrompts,
  type Job,
  promptCount,
  textWishes,
  workloadOf,
} from './generation/job.js';
import { withModelSampling } from './generation/model-sampling.js';
import { describeTask, makeTask, type Task } from './generation/task.js';
import { type GenerateOptions, noTokenizer } from './options/generate-options.js';
import { checkWeights, identityOf } from './results/identity.js';
import { checkNothingLost, withSeedOfResults } from './results/resume.js';
import { checkFiles, checkModelFiles, sharedInputs } from './results/run-files.js';
import { finishSession, withSession } from './session.js';
import { openSource, type Source } from './source.js';

export async function runGenerate(given: GenerateOptions, context: CommandContext): Promise<void> {
  const { output, report, trace, promptsFile } = given;
  const outputs = { '--output': output, '--report': report, '--trace': trace };
  checkFiles({ '--prompts_file': promptsFile, ...sharedInputs(given) }, outputs, given.name);
  checkNothingLost(given);
  if (output !== undefined && !isStdout(output)) context.interrupt.ignoreClosedStdout();
  const wished = withSeedOfResults(given);
  const prompts = await givenPrompts(wished, context);
  if (given.dummyWeights && (prompts.has.text || prompts.has.messages))
    throw noTokenizer('there are prompts of text');
  const source = await openSource(wished, context, textWishes(prompts, wished));
  checkModelFiles(outputs, source);
  const asked = withModelSampling(source.opened, wished, context);
  const encoded = await encodeJob(source, prompts, asked, context);
  const options = await withAutoBatch(source, encoded, asked, context);
  const job = fillJob(encoded, options);
  if (job.sizes.drawn) context.log.info(`tokens are drawn with --seed ${options.sampling.seed}`);
  const uses = {
    tokenizer: job.vocabulary.tokenizer !== undefined,
    chatTemplate: options.chat !== undefined || job.prompts.has.messages,
  };
  const identity = await identityOf(source, uses, options, context);
  const task = makeTask(source, job, options, identity);
  if (options.resume && identity && options.output !== undefined) {
    await checkWeights(options.output, source, identity, context);
  }
  describeTask(task, context);
  if (task.open.length > 0) await runTask(source, task, context);
  else await endAtOnce(task, context);
}

/** No text is to be made: all are there, or none can be. Throws the first problem where there is no text at all. */
async function endAtOnce(task: Task, context: CommandContext): Promise<void> {
  const sinks = await makeSinks(task, context);
  await tellImpossible(task, sinks);
  for (const sink of sinks) sink.end();
  const { impossible, firstProblem } = task.job.sizes;
  if (firstProblem && impossible === promptCount(task.job)) throw firstProblem;
}

async function runTask(source: Source, task: Task, context: CommandContext): Promise<void> {
  const { job, options } = task;
  const measured = options.benchmark !== undefined || options.report !== undefined;
  const { session, cycles, drive } = await withSession(
    {
      source,
      options,
      workload: workloadOf(job, task.open, options),
      workloadOf: (batchCount) => workloadOf(job, task.open, { ...options, batchCount }),
      texts: task.open.length,
      context,
    },
    async (session) => {
      const cycles = await runCycles(session, task, context);
      return {
        session,
        cycles,
        drive: measured ? await measureDriveLimit(session.engine.executor) : undefined,
      };
    },
  );
  const limits = measured ? withComputeLimits(drive, options.device, options.cpu.threads) : UNKNOWN_LIMITS;
  const { batchSize, benchmark } = options;
  if (benchmark) {
    const { meter, readySeconds } = session;
    const block = performanceBlock({ batchSize, readySeconds, cycles }) + streamingBlock(meter, limits);
    // Where stdout is for JSON lines, it is for nothing else.
    if (options.output !== undefined && isStdout(options.output)) context.tell(block);
    else context.write(block);
  }
  const newTokens = cycles.reduce((sum, cycle) => sum + cycle.newTokens, 0);
  const seconds = cycles.reduce((sum, cycle) => sum + cycle.seconds, 0);
  const figures = {
    batch_size: batchSize,
    streams: session.engine.executor.batchCount,
    max_new_tokens: options.maxNewTokens,
    prompts: promptCount(job),
    ...samplingFigures(job, options),
    warmup_cycles: benchmark?.warmupCycles ?? 0,
    cycles: cycles.map((cycle) => ({ seconds: cycle.seconds, new_tokens: cycle.newTokens })),
    new_tokens: newTokens,
    seconds,
  };
  const texts = task.open.length * cycles.length;
  const summary = rateSentence(`made ${counted(texts, 'text')}`, newTokens, seconds);
  await finishSession({ command: 'generate', source, session, options, context, limits, figures, summary });
}

/** What has to be known to make the same texts again. */
function samplingFigures({ sizes, samples }: Job, { sampling }: GenerateOptions) {
  if (isGreedy(sampling) && !sizes.drawn) return {};
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = sampling;
  const settings = { temperature, top_k: topK, top_p: topP, min_p: minP };
  return { sampling: { ...settings, repetition_penalty: repetitionPenalty, seed }, num_samples: samples };
}
