// `generate`: prompts in, continuations out; once, or in timed cycles.

import type { Workload } from '../../offload/index.js';
import { type GenerationResult, generate, type PassProgress } from '../generate.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../limits.js';
import { JsonLinesFile } from '../output-file.js';
import {
  checkLengths,
  DEFAULT_PROMPTS,
  type EncodedPrompt,
  encodePrompts,
  type Prompt,
  parsePromptsFile,
  repeatPrompts,
  syntheticPrompts,
  type Vocabulary,
} from '../prompts.js';
import { type Cycle, performanceBlock, streamingBlock } from '../report.js';
import { readTextFile } from '../text-file.js';
import { loadTokenizer } from '../tokenizer.js';
import type { CommandContext } from './context.js';
import type { GenerateOptions } from './generate-options.js';
import {
  BatchSink,
  type GenerationSink,
  JsonLinesSink,
  Rendering,
  StreamingSink,
} from './generation-output.js';
import { generationStatus } from './generation-status.js';
import { checkFiles, finishSession, type Session, withSession } from './session.js';
import { configuredIds, openSource, openTokenizer, type Source } from './source.js';

/** What is to be generated; nothing of it changes from cycle to cycle. */
interface Job {
  readonly prompts: readonly Prompt[];
  readonly encoded: readonly EncodedPrompt[];
  readonly vocabulary: Vocabulary;
  readonly stopTokens: ReadonlySet<number>;
  /** The prompts are the user's own, not the built-in ones. */
  readonly given: boolean;
}

export async function runGenerate(options: GenerateOptions, context: CommandContext): Promise<void> {
  checkFiles(
    { '--prompts_file': options.promptsFile },
    { '--output': options.output, '--report': options.report, '--trace': options.trace },
  );
  if (options.output !== undefined) context.interrupt.ignoreClosedStdout();
  const given = await givenPrompts(options);
  const source = await openSource(options, context);
  const job = await prepare(source, given, options);
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
    warmup_cycles: benchmark?.warmupCycles ?? 0,
    cycles: cycles.map(({ seconds, newTokens }) => ({ seconds, new_tokens: newTokens })),
    new_tokens: cycles.reduce((sum, { newTokens }) => sum + newTokens, 0),
    seconds: cycles.reduce((sum, { seconds }) => sum + seconds, 0),
  });
}

/** Read before the model is opened, because mistakes in them are common. */
async function givenPrompts({ prompts, promptsFile }: GenerateOptions): Promise<Prompt[]> {
  if (promptsFile === undefined) return prompts.map((text) => ({ text }));
  return parsePromptsFile(await readTextFile(promptsFile, '--prompts_file'), promptsFile);
}

async function prepare(source: Source, given: readonly Prompt[], options: GenerateOptions): Promise<Job> {
  const { checkpoint, model } = source.opened;
  const needsTokenizer = given.some((prompt) => 'text' in prompt);
  // Loading it where it is absent says what is missing.
  const tokenizer = await (needsTokenizer ? loadTokenizer : openTokenizer)(checkpoint.folder);
  const vocabulary = {
    size: model.vocabSize,
    startToken: tokenizer?.bosTokenId ?? configuredIds(source.opened, 'bos')[0],
    tokenizer,
  };
  const fallback = tokenizer ? DEFAULT_PROMPTS.map((text) => ({ text })) : syntheticPrompts(model.vocabSize);
  const own = given.length > 0;
  // The scripts that this program replaces always fill the batch; with prompts of one's own, only to measure.
  const fill = !own || (options.benchmark && given.length < options.batchSize);
  const prompts = fill ? repeatPrompts(own ? given : fallback, options.batchSize) : given;
  const encoded = await encodePrompts(prompts, vocabulary);
  checkLengths(encoded, options.maxNewTokens, model.maxContextTokens);
  const ends = tokenizer?.eosTokenIds ?? configuredIds(source.opened, 'eos');
  const stopTokens = new Set(options.ignoreEos ? [] : ends);
  return { prompts, encoded, vocabulary, stopTokens, given: own };
}

function workloadOf(encoded: readonly EncodedPrompt[], options: GenerateOptions): Workload {
  const { batchSize, maxNewTokens } = options;
  let [longest, promptTokens] = [0, 0];
  for (let first = 0; first < encoded.length; first += batchSize) {
    const lengths = encoded.slice(first, first + batchSize).map(({ tokens }) => tokens.length);
    promptTokens = Math.max(
      promptTokens,
      lengths.reduce((sum, length) => sum + length, 0),
    );
    longest = lengths.reduce((max, length) => Math.max(max, length), longest);
  }
  return {
    sequences: Math.min(batchSize, encoded.length),
    contextTokens: longest + maxNewTokens,
    promptTokens,
    output: 'tokens',
  };
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
  const encoded = await encodePrompts(job.prompts, job.vocabulary);
  const requests = encoded.map(({ index, tokens }) => ({ index, promptTokens: tokens }));
  const status = generationStatus(meter, requests.length);
  progress.start(status.describe);
  meter.resume();
  try {
    const results = await generate(engine.executor, requests, {
      batchSize: options.batchSize,
      maxNewTokens: options.maxNewTokens,
      stopTokens: job.stopTokens,
      signal: interrupt.signal,
      onToken: (index, token) => {
        for (const sink of sinks) sink.onToken(index, token);
      },
      onFinished: (result) => {
        for (const sink of sinks) sink.onFinished(result);
      },
      onPass: (pass: PassProgress) => {
        meter.pass(pass);
        status.onPass(pass);
      },
    });
    // Where nothing was shown, making text of the tokens still belongs to what is timed.
    if (sinks.length === 0) renderAll(job, results);
    const newTokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return { seconds: (performance.now() - startMs) / 1e3, newTokens };
  } finally {
    progress.stop();
    for (const sink of sinks) sink.end();
  }
}

function renderAll(job: Job, results: readonly GenerationResult[]): void {
  const rendering = new Rendering(job.vocabulary.tokenizer);
  for (const { index, tokens } of results) {
    const prompt = job.encoded[index];
    if (prompt) rendering.continuation(prompt, tokens);
  }
}

function makeSinks(job: Job, options: GenerateOptions, context: CommandContext): GenerationSink[] {
  const { encoded } = job;
  const rendering = new Rendering(job.vocabulary.tokenizer);
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
