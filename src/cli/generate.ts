// `generate`: prompts in, continuations out; once, or in timed cycles.

import { type GenerationResult, generate, type PassProgress } from '../generate.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../limits.js';
import { JsonLinesFile } from '../output-file.js';
import { type Cycle, performanceBlock, streamingBlock } from '../report.js';
import { withAutoBatch } from './auto-batch.js';
import type { CommandContext } from './context.js';
import type { GenerateOptions } from './generate-options.js';
import {
  givenPrompts,
  type Job,
  makeRequests,
  prepareJob,
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
import { checkFiles, finishSession, type Session, withSession } from './session.js';
import { openSource } from './source.js';

export async function runGenerate(asked: GenerateOptions, context: CommandContext): Promise<void> {
  checkFiles(
    { '--prompts_file': asked.promptsFile },
    { '--output': asked.output, '--report': asked.report, '--trace': asked.trace },
  );
  if (asked.output !== undefined) context.interrupt.ignoreClosedStdout();
  const given = await givenPrompts(asked);
  const source = await openSource(asked, context);
  const options = await withAutoBatch(source, given, asked, context);
  const job = await prepareJob(source, given, options);
  if (options.sampling) context.log.info(`tokens are drawn with --seed ${options.sampling.seed}`);
  const measured = options.benchmark !== undefined || options.report !== undefined;
  const workload = workloadOf(job.encoded, options);
  const { session, cycles, drive } = await withSession(
    source,
    options,
    workload,
    context,
    async (session) => {
      const cycles = await runCycles(session, job, options, context);
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
    context.write(performanceBlock({ batchSize, readySeconds, cycles }) + streamingBlock(meter, limits));
  }
  finishSession('generate', source, session, options, context, limits, {
    batch_size: batchSize,
    max_new_tokens: options.maxNewTokens,
    prompts: job.prompts.length,
    ...samplingFigures(options),
    warmup_cycles: benchmark?.warmupCycles ?? 0,
    cycles: cycles.map(({ seconds, newTokens }) => ({ seconds, new_tokens: newTokens })),
    new_tokens: cycles.reduce((sum, { newTokens }) => sum + newTokens, 0),
    seconds: cycles.reduce((sum, { seconds }) => sum + seconds, 0),
  });
}

/** What has to be known to make the same texts again. */
function samplingFigures({ sampling, samples = 1 }: GenerateOptions) {
  if (!sampling) return {};
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = sampling;
  const settings = { temperature, top_k: topK, top_p: topP, min_p: minP };
  return { sampling: { ...settings, repetition_penalty: repetitionPenalty, seed }, num_samples: samples };
}

/** The timed cycles. */
async function runCycles(
  session: Session,
  job: Job,
  options: GenerateOptions,
  context: CommandContext,
): Promise<Cycle[]> {
  const warmupCycles = options.benchmark?.warmupCycles ?? 0;
  const total = warmupCycles + (options.benchmark?.cycles ?? 1);
  const cycles: Cycle[] = [];
  for (let index = 0; index < total; index++) {
    // The first cycle shows what is generated; the others only how fast.
    const sinks = index === 0 ? makeSinks(job, options, context) : [];
    if (index === warmupCycles) session.meter.reset();
    const cycle = await runCycle(session, job, options, context, sinks);
    if (index >= warmupCycles) cycles.push(cycle);
  }
  return cycles;
}

/** One run over all prompts, from text to text. */
async function runCycle(
  { engine, meter }: Session,
  job: Job,
  options: GenerateOptions,
  { progress, interrupt }: CommandContext,
  sinks: readonly GenerationSink[],
): Promise<Cycle> {
  const startMs = performance.now();
  const requests = await makeRequests(job, options);
  const { samples = 1, stopStrings } = options;
  const status = generationStatus(meter, requests.length);
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
    // Where nothing was shown, making text of the tokens still belongs to what is timed.
    if (sinks.length === 0) renderAll(job, results, samples);
    const newTokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return { seconds: (performance.now() - startMs) / 1e3, newTokens };
  } finally {
    progress.stop();
    for (const sink of sinks) sink.end();
  }
}

function renderAll(job: Job, results: readonly GenerationResult[], samples: number): void {
  const rendering = new Rendering(job.vocabulary.tokenizer);
  for (const { index, sample, tokens } of results) {
    const prompt = job.encoded[index * samples + sample];
    if (prompt) rendering.continuation(prompt, tokens);
  }
}

function makeSinks(job: Job, options: GenerateOptions, context: CommandContext): GenerationSink[] {
  const { encoded } = job;
  const isChat = options.chat !== undefined;
  const rendering = new Rendering(job.vocabulary.tokenizer, options.stopStrings, isChat);
  const bare = job.given && encoded.length === 1;
  // A line that is still growing must not be interrupted by a status line on the same terminal.
  const write = (text: string) => {
    if (context.writesToTerminal) context.progress.stop();
    context.write(text);
  };
  const sinks: GenerationSink[] = [
    options.batchSize === 1
      ? new StreamingSink(encoded, rendering, write, bare)
      : new BatchSink(encoded, rendering, context.write),
  ];
  if (options.output !== undefined) {
    sinks.push(new JsonLinesSink(encoded, rendering, new JsonLinesFile(options.output, '--output')));
  }
  return sinks;
}
