// `generate`: prompts in, continuations out; once, or in timed cycles.

import { counted, OperatingError } from '../../offload/index.js';
import { generateEach } from '../engine/generate.js';
import { isGreedy } from '../engine/sampler.js';
import type { PassProgress } from '../engine/scheduler.js';
import { JsonLines } from '../files/json-lines-file.js';
import { isStdout } from '../files/output-target.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../report/limits.js';
import { type Cycle, performanceBlock, rateSentence, streamingBlock } from '../report/report.js';
import type { CommandContext } from './context.js';
import { withAutoBatch } from './generation/auto-batch.js';
import {
  encodeJob,
  fillJob,
  givenPrompts,
  impossiblePrompts,
  type Job,
  openPlaces,
  rangeOf,
  textCount,
  textWishes,
  workloadOf,
} from './generation/job.js';
import { withModelSampling } from './generation/model-sampling.js';
import {
  BatchSink,
  type GenerationSink,
  JsonLinesSink,
  Rendering,
  StreamingSink,
} from './generation/output.js';
import { RequestFeed, stopsAfter } from './generation/request-feed.js';
import { generationStatus } from './generation/status.js';
import { type GenerateOptions, noTokenizer } from './options/generate-options.js';
import { damagedPath, type RunSettings } from './results/file.js';
import { checkWeights, type Identity, identityOf } from './results/identity.js';
import type { FinishedTexts } from './results/lines.js';
import { openResults } from './results/output.js';
import {
  checkNothingLost,
  finishedTexts,
  NOTHING_FINISHED,
  settingsOf,
  withSeedOfResults,
} from './results/resume.js';
import { checkFiles, checkModelFiles, sharedInputs } from './results/run-files.js';
import { finishSession, type Session, withSession } from './session.js';
import { openSource, type Source } from './source.js';

/** What is to be done of a job: all of it, or what its results lack. */
interface Task {
  readonly job: Job;
  readonly options: GenerateOptions;
  readonly settings: RunSettings;
  readonly finished: FinishedTexts;
  /** Places of the texts that are to be made. */
  readonly open: Int32Array;
}

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

function makeTask(source: Source, job: Job, options: GenerateOptions, identity: Identity | undefined): Task {
  const { resume, output } = options;
  const settings = settingsOf(source, job, options, identity);
  const finished = resume && output !== undefined ? finishedTexts(output, settings, job) : NOTHING_FINISHED;
  return { job, options, settings, finished, open: openPlaces(job, finished.places) };
}

function describeTask({ job, options, finished, open }: Task, { log }: CommandContext): void {
  const texts = textCount(job);
  if (options.resume) {
    const torn =
      finished.tornBytes > 0
        ? `, and a line that was cut off after ${counted(finished.tornBytes, 'byte')}`
        : '';
    log.info(
      `${options.output} has ${finished.places.size} of ${counted(texts, 'text')}${torn}; ${open.length} are to be made`,
    );
    if (finished.damaged.length > 0) {
      log.warn(
        `${finished.damaged.length} lines of ${options.output} are damaged or come twice: they are moved to ` +
          `${damagedPath(options.output ?? '')}, and what they lack is made again`,
      );
    }
  }
  const { impossible, firstProblem } = job.sizes;
  if (firstProblem) {
    log.warn(
      `${impossible * job.samples} of ${counted(texts, 'text')} cannot be made, and their results say why: ${firstProblem.message}`,
    );
  }
}

/** No text is to be made: all are there, or none can be. Throws the first problem where there is no text at all. */
async function endAtOnce(task: Task, context: CommandContext): Promise<void> {
  const sinks = await makeSinks(task, context);
  await tellImpossible(task, sinks);
  for (const sink of sinks) sink.end();
  const { impossible, firstProblem } = task.job.sizes;
  if (impossible === task.job.distinct) throw firstProblem;
}

async function runTask(source: Source, task: Task, context: CommandContext): Promise<void> {
  const { job, options } = task;
  const measured = options.benchmark !== undefined || options.report !== undefined;
  const { session, cycles, drive } = await withSession(
    { source, options, workload: workloadOf(job, task.open, options), context },
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
    streams: session.engine.executor.deviceCount,
    max_new_tokens: options.maxNewTokens,
    prompts: job.prompts.length,
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

/** The timed cycles. */
async function runCycles(session: Session, task: Task, context: CommandContext): Promise<Cycle[]> {
  const { options } = task;
  const warmupCycles = options.benchmark?.warmupCycles ?? 0;
  const total = warmupCycles + (options.benchmark?.cycles ?? 1);
  const cycles: Cycle[] = [];
  for (let index = 0; index < total; index++) {
    // Without warm-up, layers that were read before the first cycle count.
    if (index === warmupCycles && index > 0) session.meter.reset();
    // The first cycle shows what is generated; the others only how fast.
    const cycle = await runCycle(session, task, context, index === 0);
    if (index >= warmupCycles) cycles.push(cycle);
  }
  return cycles;
}

/** One run over all prompts, from text to text. */
async function runCycle(
  { engine, meter }: Session,
  task: Task,
  context: CommandContext,
  shown: boolean,
): Promise<Cycle> {
  const { job, options, open, finished } = task;
  const { progress, interrupt, log } = context;
  const startMs = performance.now();
  const feed = new RequestFeed(job, open, options);
  const { samples } = job;
  const status = generationStatus(open.length, finished.places.size);
  const sinks = shown ? await makeSinks(task, context) : [timedSink(job)];
  let newTokens = 0;
  let problems = 0;
  let firstProblem: OperatingError | undefined;
  try {
    if (shown) await tellImpossible(task, sinks);
    progress.start(status.describe);
    meter.resume();
    await generateEach(engine.executor, feed, {
      batchSize: options.batchSize,
      maxNewTokens: options.maxNewTokens,
      stopTokens: job.endTokens,
      ...(options.stopStrings.length > 0 || job.prompts.has.stopStrings
        ? { stopsAfter: stopsAfter(job, feed, options) }
        : {}),
      signal: interrupt.signal,
      // What others measure computes every prompt by itself, also where a batch is filled with one.
      sharesPages: options.benchmark === undefined,
      onToken: (index, token, sample) => {
        status.onToken();
        const place = index * samples + sample;
        for (const sink of sinks) sink.onToken({ place, prompt: feed.promptOf(place) }, token);
      },
      onFinished: (result) => {
        const place = result.index * samples + result.sample;
        newTokens += result.tokens.length;
        problems += result.problem ? 1 : 0;
        firstProblem ??= result.problem;
        for (const sink of sinks) sink.onFinished({ place, prompt: feed.promptOf(place) }, result);
        feed.finished(place);
      },
      onPass: (pass: PassProgress) => {
        meter.pass(pass);
        status.onPass(pass);
      },
    });
    if (firstProblem) {
      // Among many prompts, texts that end with an error stop no other, unless there is nothing else.
      if (options.prompts.length > 0 || !job.given || problems === open.length) throw firstProblem;
      log.warn(`${problems} of ${counted(open.length, 'text')} ended with an error: ${firstProblem.message}`);
    }
    return { seconds: (performance.now() - startMs) / 1e3, newTokens };
  } finally {
    progress.stop();
    // Whoever stops a run wants to know how far it came; a reader that has seen enough does not.
    if (interrupt.signal.reason instanceof OperatingError) log.info(`stopped at ${status.describe()}`);
    for (const sink of sinks) sink.end();
  }
}

/** Where nothing is shown, making text of the tokens still belongs to what is timed. */
function timedSink({ vocabulary }: Job): GenerationSink {
  const rendering = new Rendering(vocabulary.tokenizer);
  return {
    onToken: () => undefined,
    onFinished: ({ prompt }, { tokens }) => void rendering.continuation(prompt, tokens),
    onFailed: () => undefined,
    end: () => undefined,
  };
}

async function makeSinks(task: Task, context: CommandContext): Promise<GenerationSink[]> {
  const { job, options, finished } = task;
  const isChat = options.chat !== undefined;
  const rendering = new Rendering(job.vocabulary.tokenizer, options.stopStrings, isChat);
  const texts = textCount(job);
  // A line that is still growing must not be interrupted by a status line on the same terminal.
  const write = (text: string) => {
    if (context.writesToTerminal) context.progress.stop();
    context.write(text);
  };
  const places = { done: finished.places, texts, distinct: job.distinct * job.samples };
  const sinks: GenerationSink[] = [];
  const { output } = options;
  if (output === undefined || !isStdout(output)) {
    sinks.push(
      options.batchSize * options.deviceCount === 1
        ? new StreamingSink(rendering, write, job.given && texts === 1)
        : new BatchSink(rendering, context.write, places),
    );
  }
  if (output !== undefined) {
    const lines = isStdout(output) ? new JsonLines(context.write) : await openResults(output, task, context);
    sinks.push(new JsonLinesSink(rendering, lines));
  }
  return sinks;
}

/** The texts that cannot be made are told of before others begin. */
async function tellImpossible(
  { job, options, finished }: Task,
  sinks: readonly GenerationSink[],
): Promise<void> {
  if (job.sizes.impossible === 0) return;
  for await (const batch of job.coder.encode(job.prompts, impossiblePrompts(job))) {
    for (const prompt of batch) {
      if (!prompt.problem) continue;
      for (const sample of rangeOf(job.samples)) {
        const place = prompt.index * job.samples + sample;
        if (finished.places.has(place)) continue;
        const text = { place, prompt: options.samples === undefined ? prompt : { ...prompt, sample } };
        for (const sink of sinks) sink.onFailed(text, prompt.problem);
      }
    }
  }
}
