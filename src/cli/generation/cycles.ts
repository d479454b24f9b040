// One run over all prompts, or several that are timed: requests go to the engine, tokens to where they are shown.

import { counted, OperatingError } from '../../../offload/index.js';
import { generateEach } from '../../engine/generate.js';
import type { PassProgress } from '../../engine/scheduler.js';
import { JsonLines } from '../../files/json-lines-file.js';
import { isStdout } from '../../files/output-target.js';
import type { Cycle } from '../../report/report.js';
import type { CommandContext } from '../context.js';
import { openResults } from '../results/output.js';
import type { Session } from '../session.js';
import { impossiblePrompts, isOwn, type Job, rangeOf } from './job.js';
import { BatchSink, type GenerationSink, JsonLinesSink, Rendering, StreamingSink } from './output.js';
import { RequestFeed, stopsAfter } from './request-feed.js';
import { generationStatus } from './status.js';
import type { Task } from './task.js';

/** The timed cycles. */
export async function runCycles(session: Session, task: Task, context: CommandContext): Promise<Cycle[]> {
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

export async function makeSinks(task: Task, context: CommandContext): Promise<GenerationSink[]> {
  const { job, options, finished } = task;
  const isChat = options.chat !== undefined;
  const rendering = new Rendering(job.vocabulary.tokenizer, options.stopStrings, isChat);
  const texts = job.prompts.length * job.samples;
  // A line that is still growing must not be interrupted by a status line on the same terminal.
  const write = (text: string) => {
    if (context.writesToTerminal) context.progress.stop();
    context.write(text);
  };
  const isElsewhere = (place: number) => finished.places.has(place) || !isOwn(job, place);
  const places = { isElsewhere, texts, distinct: job.distinct * job.samples };
  const sinks: GenerationSink[] = [];
  const { output } = options;
  if (output === undefined || !isStdout(output)) {
    sinks.push(
      options.batchSize * options.batchCount === 1
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
export async function tellImpossible(
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
