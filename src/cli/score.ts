// `score`: how well the model predicts a text, streamed like generation.

import { formatBytes, OperatingError, type Workload } from '../../offload/index.js';
import { planFor } from '../engine/plan-for.js';
import { type Score, score, windowCount } from '../engine/score.js';
import { type InputName, isRereadable, mayWait, shownName } from '../files/input.js';
import { reason } from '../files/json-file.js';
import { readTextFile, readTextPieces } from '../files/text-file.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../report/limits.js';
import { rateSentence } from '../report/report.js';
import { checkIds, idProblem } from '../text/token-ids.js';
import { encodeLongText } from '../text/tokenizer/long-text.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import { parseIdList } from './generation/prompts.js';
import { planOptionsFor } from './options/ds-config-options.js';
import { badOption } from './options/option-reader.js';
import type { ScoreCommandOptions, ScoreInput } from './options/score-options.js';
import { checkFiles, checkModelFiles, sharedInputs } from './results/run-files.js';
import { finishSession, type Session, withSession } from './session.js';
import { openSource, type Source } from './source.js';

const MOST_CONTEXT = 2048;
/** JSON is read whole: some 40 million ids. */
const MOST_ID_CHARACTERS = 2 ** 28;
/** More windows at once share each read of a layer, but need more memory. */
const WINDOWS_AT_ONCE = [8, 4, 2, 1];

/** How well the model predicts the text of `options`, without a report. */
export async function scoreText(
  options: ScoreCommandOptions,
  source: Source,
  context: CommandContext,
): Promise<Score> {
  const named = { path: options.input.path, option: '--text_file', signal: context.interrupt.signal };
  const ids = await readIds(await readContent(named, options.input), named, source, context);
  const windowTokens = windowOf(options, source);
  const workload = workloadOf(ids.length, windowTokens, source, options);
  return withSession({ source, options, workload, context }, (session) =>
    scoreAll(session, ids, windowTokens, context),
  );
}

export async function runScore(options: ScoreCommandOptions, context: CommandContext): Promise<void> {
  const inputName = options.input.kind === 'text' ? '--text_file' : '--token_ids';
  const outputs = { '--report': options.report, '--trace': options.trace };
  const { path } = options.input;
  checkFiles({ [inputName]: path, ...sharedInputs(options) }, outputs, options.name);
  if (mayWait(path)) context.log.info(`reading from ${shownName(path)}, to its end`);
  const named = { path, option: inputName, signal: context.interrupt.signal };
  const content = await readContent(named, options.input);
  const source = await openSource(options, context, { tokenizer: options.input.kind === 'text' });
  checkModelFiles(outputs, source);
  const ids = await readIds(content, named, source, context);
  const windowTokens = windowOf(options, source);
  const workload = workloadOf(ids.length, windowTokens, source, options);
  const { session, result, seconds, drive } = await withSession(
    { source, options, workload, context },
    async (session) => {
      const startMs = performance.now();
      const result = await scoreAll(session, ids, windowTokens, context);
      const seconds = (performance.now() - startMs) / 1e3;
      context.write(options.json ? jsonLine(result) : textLine(result));
      const measured = options.report !== undefined;
      return {
        session,
        result,
        seconds,
        drive: measured ? await measureDriveLimit(session.engine.executor) : undefined,
      };
    },
  );
  const limits =
    options.report === undefined
      ? UNKNOWN_LIMITS
      : withComputeLimits(drive, options.device, options.cpu.threads);
  const figures = { context: windowTokens, batch_size: workload.sequences, ...result };
  const summary = rateSentence('scored a text', result.tokens, seconds);
  await finishSession({ command: 'score', source, session, options, context, limits, figures, summary });
}

/** JSON as it is; text in pieces, which is made sure to be text before a model is opened or comes by the network. */
async function readContent(
  named: InputName,
  { kind }: ScoreInput,
): Promise<{ readonly json: unknown } | { readonly text: AsyncIterable<string> }> {
  if (kind === 'ids') {
    return { json: parseJson(await readTextFile(named, MOST_ID_CHARACTERS), shownName(named.path)) };
  }
  if (isRereadable(named.path)) for await (const _ of readTextPieces(named));
  return { text: readTextPieces(named) };
}

async function readIds(
  content: { readonly json: unknown } | { readonly text: AsyncIterable<string> },
  { path, signal }: InputName,
  { opened }: Source,
  { progress }: CommandContext,
): Promise<Int32Array> {
  const name = shownName(path);
  let count = 0;
  const onProgress = (tokens: number) => {
    count = tokens;
  };
  const read = async (): Promise<Int32Array> => {
    if ('json' in content) {
      const ids = parseIdList(content.json, name);
      checkIds(ids, opened.model.vocabSize, name);
      return Int32Array.from(ids);
    }
    const tokenizer = await loadTokenizer(opened.checkpoint.folder);
    const ids = await encodeLongText(tokenizer, content.text, { signal, onProgress });
    // A tokenizer may have more tokens than the model.
    const problem = idProblem(ids, opened.model.vocabSize, name);
    if (problem) throw problem;
    return ids;
  };
  const ids = await progress.during(
    () => `reading ${name}: ${count.toLocaleString('en')} tokens so far`,
    read(),
  );
  if (ids.length >= 2) return ids;
  throw new OperatingError(
    'BAD_INPUT',
    `${name} has ${ids.length} tokens: scoring needs at least 2, as the first is only given`,
  );
}

function parseJson(content: string, path: string): unknown {
  try {
    return JSON.parse(content);
  } catch (error) {
    throw new OperatingError('BAD_INPUT', `${path} is not JSON: ${reason(error)}`, { cause: error });
  }
}

function windowOf({ context }: ScoreCommandOptions, { opened }: Source): number {
  const most = opened.model.maxContextTokens;
  if (context !== undefined && most !== undefined && context > most) {
    throw badOption(`--context is ${context}, but the model's context is ${most}`);
  }
  return context ?? Math.min(most ?? MOST_CONTEXT, MOST_CONTEXT);
}

/** As many windows at once as were asked for, or as fit. */
function workloadOf(
  tokenCount: number,
  windowTokens: number,
  { opened }: Source,
  options: ScoreCommandOptions,
): Workload {
  const windows = windowCount(tokenCount, windowTokens);
  const workload = (atOnce: number): Workload => {
    const sequences = Math.min(atOnce, windows);
    const contextTokens = Math.min(windowTokens, tokenCount);
    const promptTokens = sequences * contextTokens;
    const inputBytes = tokenCount * Int32Array.BYTES_PER_ELEMENT;
    return { sequences, contextTokens, promptTokens, output: 'nll', inputBytes };
  };
  if (options.batchSize !== undefined) return workload(options.batchSize);
  for (const atOnce of WINDOWS_AT_ONCE) {
    if (fits(workload(atOnce), opened, options)) return workload(atOnce);
  }
  // The planner's refusal says what is missing.
  return workload(1);
}

function fits(workload: Workload, opened: Source['opened'], options: ScoreCommandOptions): boolean {
  try {
    planFor(opened.model, {
      offload: options.offload,
      ...(options.dramBudgetBytes === undefined ? {} : { dramBudgetBytes: options.dramBudgetBytes }),
      ...(options.dramAvailableBytes === undefined ? {} : { dramAvailableBytes: options.dramAvailableBytes }),
      workload,
      plan: planOptionsFor(options, opened.model),
      cpu: options.cpu,
    });
    return true;
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'DOES_NOT_FIT') return false;
    throw error;
  }
}

function scoreAll(
  { engine, meter }: Session,
  ids: Int32Array,
  windowTokens: number,
  { progress, interrupt }: CommandContext,
): Promise<Score> {
  let scored = 0;
  const total = ids.length - 1;
  meter.resume();
  const work = score(engine.executor, ids, {
    windowTokens,
    signal: interrupt.signal,
    onProgress: (done, _total, microBatches) => {
      meter.pass({ phase: 'score', tokens: done - scored, microBatches });
      scored = done;
    },
  });
  const describe = () =>
    `scoring: ${scored} of ${total} tokens (${((scored / total) * 100).toFixed(0)} %), ` +
    `${formatBytes(meter.streamedBytes)} read`;
  return progress.during(describe, work);
}

function jsonLine({ nll, perplexity, tokens }: Score): string {
  const number = (value: number) => (Number.isFinite(value) ? String(value) : 'null');
  return `{"nll": ${number(nll)}, "perplexity": ${number(perplexity)}, "tokens": ${tokens}}\n`;
}

function textLine({ nll, perplexity, tokens }: Score): string {
  return `negative log-likelihood ${nll.toFixed(5)} per token, perplexity ${perplexity.toFixed(3)}, ${tokens} tokens\n`;
}
