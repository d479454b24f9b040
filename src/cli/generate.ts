// `generate`: prompts in, continuations out; once, or in timed cycles.

import { OperatingError, present } from '../../offload/index.js';
import { type GenerationResult, generate, type PassProgress } from '../generate.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../limits.js';
import { JsonLines, JsonLinesFile } from '../output-file.js';
import { isStdout } from '../output-target.js';
import { type Cycle, performanceBlock, rateSentence, streamingBlock } from '../report.js';
import { damagedPath, type RunSettings, resultsFile, writeSettings } from '../results-file.js';
import { dropDamaged, type FinishedTexts } from '../results-lines.js';
import { withAutoBatch } from './auto-batch.js';
import type { CommandContext } from './context.js';
import type { GenerateOptions } from './generate-options.js';
import {
  encodeJob,
  fillJob,
  givenPrompts,
  type Job,
  makeRequests,
  openPlaces,
  stopsAfter,
  workloadOf,
} from './generation-job.js';
import {
  BatchSink,
  type GenerationSink,
  JsonLinesSink,
  Rendering,
  StreamingSink,
} from './generation-output.js';
import { generationStatus } from './generation-status.js';
import { checkWeights, type Identity, identityOf } from './identity.js';
import {
  checkNothingLost,
  finishedTexts,
  NOTHING_FINISHED,
  settingsOf,
  withSeedOfResults,
} from './resume.js';
import { checkFiles, checkModelFiles, sharedInputs } from './run-files.js';
import { finishSession, type Session, withSession } from './session.js';
import { openSource, type Source } from './source.js';

/** What is to be done of a job: all of it, or what its results lack. */
interface Task {
  readonly job: Job;
  readonly options: GenerateOptions;
  readonly settings: RunSettings;
  readonly finished: FinishedTexts;
  /** Places of the texts that are to be made. */
  readonly open: readonly number[];
}

export async function runGenerate(given: GenerateOptions, context: CommandContext): Promise<void> {
  const { output, report, trace } = given;
  const outputs = { '--output': output, '--report': report, '--trace': trace };
  checkFiles({ '--prompts_file': given.promptsFile, ...sharedInputs(given) }, outputs, given.name);
  checkNothingLost(given);
  if (output !== undefined && !isStdout(output)) context.interrupt.ignoreClosedStdout();
  const asked = withSeedOfResults(given);
  const prompts = await givenPrompts(asked);
  const source = await openSource(asked, context);
  checkModelFiles(outputs, source);
  const encoded = await encodeJob(source, prompts, asked);
  const options = await withAutoBatch(source, encoded, asked, context);
  const job = fillJob(encoded, options);
  if (options.sampling) context.log.info(`tokens are drawn with --seed ${options.sampling.seed}`);
  const identity = await identityOf(source, job.vocabulary.tokenizer !== undefined, options, context);
  const task = makeTask(source, job, options, identity);
  if (options.resume && identity && options.output !== undefined) {
    await checkWeights(options.output, source, identity, context);
  }
  describeTask(task, context);
  if (task.open.length > 0) await runTask(source, task, context);
  else endAtOnce(task, context);
}

function makeTask(source: Source, job: Job, options: GenerateOptions, identity: Identity | undefined): Task {
  const { resume, output } = options;
  const settings = settingsOf(source, job, options, identity);
  const finished = resume && output !== undefined ? finishedTexts(output, settings, job) : NOTHING_FINISHED;
  return { job, options, settings, finished, open: openPlaces(job, finished.places) };
}

function describeTask({ job, options, finished, open }: Task, { log }: CommandContext): void {
  const { encoded } = job;
  if (options.resume) {
    const torn =
      finished.tornBytes > 0 ? `, and a line that was cut off after ${finished.tornBytes} bytes` : '';
    log.info(
      `${options.output} has ${finished.places.size} of ${encoded.length} texts${torn}; ${open.length} are to be made`,
    );
    if (finished.damaged.length > 0) {
      log.warn(
        `${finished.damaged.length} lines of ${options.output} are damaged or come twice: they are moved to ` +
          `${damagedPath(options.output ?? '')}, and what they lack is made again`,
      );
    }
  }
  const failed = encoded.filter(({ problem }) => problem);
  const [first] = failed;
  if (first?.problem) {
    log.warn(
      `${failed.length} of ${encoded.length} texts cannot be made, and their results say why: ${first.problem.message}`,
    );
  }
}

/** No text is to be made: all are there, or none can be. Throws the first problem where there is no text at all. */
function endAtOnce(task: Task, context: CommandContext): void {
  for (const sink of makeSinks(task, context)) sink.end();
  const { encoded } = task.job;
  if (encoded.every(({ problem }) => problem)) throw encoded[0]?.problem;
}

async function runTask(source: Source, task: Task, context: CommandContext): Promise<void> {
  const { job, options } = task;
  const measured = options.benchmark !== undefined || options.report !== undefined;
  const wanted = task.open.map((place) => present(job.encoded[place], 'prompt'));
  const { session, cycles, drive } = await withSession(
    source,
    options,
    workloadOf(wanted, options),
    context,
    async (session) => {
      const cycles = await runCycles(session, task, context);
      return {
        session,
        cycles,
        drive: measured ? await measureDriveLimit(session.engine.executor) : undefined,
      };
    },
  );
  const limits = measured ? withComputeLimits(drive, options.cpu.threads) : UNKNOWN_LIMITS;
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
    ...samplingFigures(options),
    warmup_cycles: benchmark?.warmupCycles ?? 0,
    cycles: cycles.map((cycle) => ({ seconds: cycle.seconds, new_tokens: cycle.newTokens })),
    new_tokens: newTokens,
    seconds,
  };
  const texts = task.open.length * cycles.length;
  const summary = rateSentence(`made ${texts} ${texts === 1 ? 'text' : 'texts'}`, newTokens, seconds);
  finishSession({ command: 'generate', source, session, options, context, limits, figures, summary });
}

/** What has to be known to make the same texts again. */
function samplingFigures({ sampling, samples = 1 }: GenerateOptions) {
  if (!sampling) return {};
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
    // The first cycle shows what is generated; the others only how fast.
    const sinks = index === 0 ? makeSinks(task, context) : [];
    // Without warm-up, layers that were read before the first cycle count.
    if (index === warmupCycles && index > 0) session.meter.reset();
    const cycle = await runCycle(session, task, context, sinks);
    if (index >= warmupCycles) cycles.push(cycle);
  }
  return cycles;
}

/** One run over all prompts, from text to text. */
async function runCycle(
  { engine, meter }: Session,
  { job, options, open, finished }: Task,
  { progress, interrupt, log }: CommandContext,
  sinks: readonly GenerationSink[],
): Promise<Cycle> {
  const startMs = performance.now();
  const requests = await makeRequests(job, options, open);
  const { samples = 1, stopStrings } = options;
  const status = generationStatus(requests.length, finished.places.size);
  progress.start(status.describe);
  meter.resume();
  try {
    const results = await generate(engine.executor, requests, {
      batchSize: options.batchSize,
      maxNewTokens: options.maxNewTokens,
      stopTokens: job.stopTokens,
      ...(stopStrings.length > 0 ? { stopsAfter: stopsAfter(job, stopStrings) } : {}),
      signal: interrupt.signal,
      onToken: (index, token, sample) => {
        status.onToken();
        for (const sink of sinks) sink.onToken(index * samples + sample, token);
      },
      onFinished: (result) => {
        const place = result.index * samples + result.sample;
        for (const sink of sinks) sink.onFinished(place, result);
      },
      onPass: (pass: PassProgress) => {
        meter.pass(pass);
        status.onPass(pass);
      },
    });
    reportProblems(results, options, log);
    // Where nothing was shown, making text of the tokens still belongs to what is timed.
    if (sinks.length === 0) renderAll(job, results, samples);
    const newTokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return { seconds: (performance.now() - startMs) / 1e3, newTokens };
  } finally {
    progress.stop();
    for (const sink of sinks) sink.end();
  }
}

/** In a file of many prompts, texts that end with an error stop no other, unless there is nothing else. */
function reportProblems(
  results: readonly GenerationResult[],
  { promptsFile }: GenerateOptions,
  log: CommandContext['log'],
): void {
  const problems = results.flatMap(({ problem }) => problem ?? []);
  const [first] = problems;
  if (!first) return;
  if (promptsFile === undefined || problems.length === results.length) throw first;
  log.warn(`${problems.length} of ${results.length} texts ended with an error: ${first.message}`);
}

function renderAll(job: Job, results: readonly GenerationResult[], samples: number): void {
  const rendering = new Rendering(job.vocabulary.tokenizer);
  for (const { index, sample, tokens } of results) {
    const prompt = job.encoded[index * samples + sample];
    if (prompt) rendering.continuation(prompt, tokens);
  }
}

/** The texts that cannot be made are told of at once. */
function makeSinks(task: Task, context: CommandContext): GenerationSink[] {
  const { job, options, finished } = task;
  const { encoded } = job;
  const isChat = options.chat !== undefined;
  const rendering = new Rendering(job.vocabulary.tokenizer, options.stopStrings, isChat);
  const bare = job.given && encoded.length === 1;
  // A line that is still growing must not be interrupted by a status line on the same terminal.
  const write = (text: string) => {
    if (context.writesToTerminal) context.progress.stop();
    context.write(text);
  };
  const sinks: GenerationSink[] = [];
  const { output } = options;
  if (output === undefined || !isStdout(output)) {
    sinks.push(
      options.batchSize * options.deviceCount === 1
        ? new StreamingSink(encoded, rendering, write, bare)
        : new BatchSink(encoded, rendering, context.write, finished.places),
    );
  }
  if (output !== undefined) {
    const lines = isStdout(output) ? new JsonLines(context.write) : openResults(output, task, context);
    sinks.push(new JsonLinesSink(encoded, rendering, lines));
  }
  for (const [place, { problem }] of encoded.entries()) {
    if (!problem || finished.places.has(place)) continue;
    for (const sink of sinks) sink.onFailed(place, problem);
  }
  return sinks;
}

/**
 * Emptied before its settings are written, so that settings never stand beside another run's results; where prompts have
 * come after those of the results, the settings say so before there is a text of them.
 */
function openResults(
  path: string,
  { settings, finished, options }: Task,
  { log }: CommandContext,
): JsonLinesFile {
  const results = resultsFile(path);
  const file = new JsonLinesFile(path, '--output');
  if (results === undefined) {
    file.open();
    return file;
  }
  const { keptBytes, fileBytes } = dropDamaged(results, finished);
  file.open(keptBytes, options.overwrite ? undefined : fileBytes);
  try {
    writeSettings(results, settings);
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    log.warn(`--resume will not be able to go on with these results: ${error.message}`);
  }
  return file;
}
