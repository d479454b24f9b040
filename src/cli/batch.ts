// `batch`: OpenAI's batch files without a server; a run that was interrupted goes on where it was.

import { statSync } from 'node:fs';
import { counted, formatBytes } from '../../offload/index.js';
import { Api } from '../api/api.js';
import { BatchInput } from '../batches/batch-input.js';
import { BatchResults } from '../batches/batch-results.js';
import { requestsAtOnce, runBatch } from '../batches/run-batch.js';
import { measureDriveLimit, UNKNOWN_LIMITS, withComputeLimits } from '../report/limits.js';
import { rateSentence } from '../report/report.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import type { BatchOptions } from './options/batch-options.js';
import { badOption } from './options/option-reader.js';
import {
  checkSettings,
  fingerprint,
  type RunSettings,
  readSettings,
  resultsFile,
  writeSettings,
} from './results/file.js';
import { checkWeights, identityOf, identitySettings } from './results/identity.js';
import { checkFiles, checkModelFiles, sharedInputs } from './results/run-files.js';
import { openServed, ownSampling, servedWorkload } from './served.js';
import { finishSession, withSession } from './session.js';
import { openSource, type Source } from './source.js';

export async function runBatchCommand(options: BatchOptions, context: CommandContext): Promise<void> {
  const { input: path, output, errors, report } = options;
  const outputs = { '--output': output, '--errors': errors, '--report': report };
  checkFiles({ '--input': path, ...sharedInputs(options) }, outputs, options.name);
  checkNothingLost(options);
  const { progress, interrupt } = context;
  let lines = 0;
  const reading = BatchInput.read(
    { path, option: '--input', signal: interrupt.signal },
    {
      onProgress: (now) => {
        lines = now;
      },
    },
  );
  const input = await progress.during(() => `reading ${path}: ${counted(lines, 'request')} so far`, reading);
  try {
    const source = await openSource(options, context, { tokenizer: true });
    checkModelFiles(outputs, source);
    await checkSettingsOf(source, input, options, context);
    const results = new BatchResults({
      output,
      errors: errors ?? output,
      option: '--output',
      key: input.digest,
      requests: input.length,
      overwrite: options.overwrite,
    });
    try {
      await answerAll(source, { input, results }, options, context);
    } finally {
      results.close();
    }
  } finally {
    input.close();
  }
}

interface Files {
  readonly input: BatchInput;
  readonly results: BatchResults;
}

async function answerAll(
  source: Source,
  { input, results }: Files,
  options: BatchOptions,
  context: CommandContext,
): Promise<void> {
  const { log, progress, interrupt } = context;
  const before = results.completed + results.failed;
  if (before > 0) log.info(`${before} of ${counted(input.length, 'request')} have a line already`);
  const tokenizer = await loadTokenizer(source.opened.checkpoint.folder);
  const own = options.generationConfig ? ownSampling(source, context) : undefined;
  const workload = servedWorkload(source, options);
  const startMs = performance.now();
  let newTokens = 0;
  const { session, drive } = await withSession({ source, options, workload, context }, async (session) => {
    const { engine, meter } = session;
    // From the first request on the executor is the scheduler's alone.
    const drive = options.report === undefined ? undefined : await measureDriveLimit(engine.executor);
    engine.serveWith({ maxWaitMs: 0, onPass: (pass) => meter.pass(pass) });
    const { contextTokens } = workload;
    const model = await openServed({ source, options, tokenizer, own, engine, contextTokens });
    const observer = {
      firstToken: () => undefined,
      newToken: () => undefined,
      ended: (_: number, tokens: number) => {
        newTokens += tokens;
      },
    };
    const api = new Api({ ...model, observer }, (fault) => log.warn(`a request failed: ${fault.message}`));
    meter.resume();
    const work = runBatch({
      input,
      results,
      answer: (path, body, asking) => api.answerWhole(path, body, asking),
      client: 'batch',
      atOnce: requestsAtOnce(engine.executor),
      signal: interrupt.signal,
    });
    const done = () => results.completed + results.failed;
    try {
      await progress.during(() => `answering: ${done()} of ${counted(input.length, 'request')}`, work);
    } finally {
      await model.answers?.grammars.close();
    }
    return { session, drive };
  });
  const seconds = (performance.now() - startMs) / 1e3;
  const { completed, failed } = results;
  const answered = completed + failed - before;
  const wrong = failed > 0 ? `, ${failed} of them with an error` : '';
  const limits =
    options.report === undefined
      ? UNKNOWN_LIMITS
      : withComputeLimits(drive, options.device, options.cpu.threads);
  const figures = { requests: input.length, answered, completed, failed, new_tokens: newTokens, seconds };
  const summary = `${rateSentence(`answered ${counted(answered, 'request')}`, newTokens, seconds)}${wrong}`;
  await finishSession({ command: 'batch', source, session, options, context, limits, figures, summary });
}

/** Results of hours must not end by a word that was left out. Throws BAD_OPTION. */
function checkNothingLost({ output, errors, resume, overwrite }: BatchOptions): void {
  if (resume || overwrite) return;
  for (const [option, path] of [
    ['--output', output],
    ['--errors', errors],
  ] as const) {
    const results = path === undefined ? undefined : resultsFile(path);
    const sizeBytes = results === undefined ? 0 : (statSync(results, { throwIfNoEntry: false })?.size ?? 0);
    if (sizeBytes === 0) continue;
    throw badOption(
      `${option}: ${path} has ${formatBytes(sizeBytes)} of results: add --resume to go on with them, --overwrite to ` +
        'begin anew, or give another path',
    );
  }
}

/** Throws BAD_INPUT where there are results of another model or other requests; writes down whose these are. */
async function checkSettingsOf(
  source: Source,
  input: BatchInput,
  options: BatchOptions,
  context: CommandContext,
): Promise<void> {
  const { output, resume } = options;
  const results = resultsFile(output);
  if (results === undefined) return;
  const identity = await identityOf(source, { tokenizer: true, chatTemplate: true }, options, context);
  const { checkpoint, model } = source.opened;
  const settings: RunSettings = {
    model: model.architecture,
    configuration: fingerprint([checkpoint.config, checkpoint.totalBytes]).slice(0, 16),
    ...(identity ? identitySettings(identity) : {}),
    prompts: `${input.length} ${input.digest}`,
    max_new_tokens: null,
    errors: options.errors !== undefined,
    generation_config: options.generationConfig,
    tool_parser: options.toolParser ?? 'auto',
    reasoning_parser: options.reasoningParser ?? 'auto',
  };
  const found = resume ? readSettings(output) : undefined;
  if (found) {
    // The weights' records have times in them.
    checkSettings(output, found, settings, ['weights']);
    if (identity) await checkWeights(output, source, identity, context);
  }
  writeSettings(results, settings);
}
