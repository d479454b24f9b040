// `serve`: a model for many clients, by OpenAI's API.

import { join } from 'node:path';
import { servedAnswers } from '../api/answer-style.js';
import { servedModel } from '../api/served-model.js';
import { type ModelSampling, readGenerationConfig } from '../engine/generation-config.js';
import { planFor } from '../engine/plan-for.js';
import { workloadFor } from '../library/workload.js';
import { Service } from '../server/service.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';
import type { ServeOptions } from './options/serve-options.js';
import { checkFiles, sharedInputs } from './results/run-files.js';
import { engineOptions, withSession } from './session.js';
import { openSource, type Source } from './source.js';

export async function runServe(options: ServeOptions, context: CommandContext): Promise<void> {
  checkFiles(sharedInputs(options), {}, options.name);
  const source = await openSource(options, context, { tokenizer: true });
  const tokenizer = await loadTokenizer(source.opened.checkpoint.folder);
  const own = options.generationConfig ? ownSampling(source, context) : undefined;
  // Any answer may be bound by a format.
  const workload = { ...workloadOf(source, options), masks: true };
  await withSession({ source, options, workload, context }, async ({ engine }) => {
    const names = options.servedNames.length > 0 ? options.servedNames : [options.name];
    const { contextTokens } = workload;
    const { opened } = source;
    const { folder } = opened.checkpoint;
    const { toolParser: calls, reasoningParser: reasoning } = options;
    const { vocabSize } = engine.model;
    const answers = await servedAnswers({ folder, tokenizer, vocabSize, calls, reasoning });
    try {
      const model = servedModel({ opened, engine, tokenizer, names, contextTokens, own, answers });
      const service = new Service({ engine, model, log: context.log }, serviceOptions(options));
      await serveUntilStopped(service, options, context);
    } finally {
      await answers.grammars.close();
    }
  });
}

async function serveUntilStopped(
  service: Service,
  options: ServeOptions,
  { log, interrupt }: CommandContext,
): Promise<void> {
  const forget = interrupt.onStop(() => service.close());
  try {
    const address = await listening(service, options);
    log.info(`serving at ${address}; Ctrl-C ends when the answers that are being made are there`);
    await interrupt.firstSignal(
      `no more requests are taken; waiting for up to ${options.drainMs / 1e3} s for answers`,
    );
    await service.drain();
    interrupt.signal.throwIfAborted();
  } finally {
    forget();
    await service.close();
  }
}

async function listening(service: Service, { host, port }: ServeOptions): Promise<string> {
  try {
    return await service.listen();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why =
      code === 'EADDRINUSE'
        ? 'something else listens there'
        : code === 'EACCES'
          ? 'that needs other rights'
          : code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND'
            ? 'this machine has no such address'
            : undefined;
    if (why === undefined) throw error;
    throw badOption(`--host ${host} with --port ${port} cannot be listened at, as ${why}: give another one`);
  }
}

function serviceOptions(options: ServeOptions) {
  const { mostRequests, mostClientRequests = mostRequests } = options;
  return {
    ...options,
    limits: {
      requests: mostRequests,
      requestsOfClient: mostClientRequests,
      tokens: options.mostOpenTokens ?? Number.POSITIVE_INFINITY,
      bytes: options.mostOpenBytes,
    },
  };
}

function ownSampling({ opened }: Source, { log }: CommandContext): ModelSampling {
  const { folder, generationConfig } = opened.checkpoint;
  const path = join(folder, 'generation_config.json');
  const own = readGenerationConfig(generationConfig, path, opened.model.maxContextTokens);
  for (const line of own.warnings) log.warn(line);
  return own;
}

/** Throws BAD_OPTION or DOES_NOT_FIT. */
function workloadOf(source: Source, options: ServeOptions) {
  const { maxContext, cacheTokens, batchSize } = options;
  const { model } = source.opened;
  const possible = model.maxContextTokens;
  if (maxContext !== undefined && possible !== undefined && maxContext > possible) {
    throw badOption(`--max_context is ${maxContext}, but the model has a context of ${possible}: lower it`);
  }
  if (maxContext !== undefined && cacheTokens !== undefined && cacheTokens < maxContext) {
    throw badOption(
      `--cache_tokens is ${cacheTokens}, but one text may have ${maxContext}: raise it, or lower --max_context`,
    );
  }
  const limits = {
    task: 'generate',
    maxSequences: batchSize,
    contextTokens: maxContext,
    cacheTokens,
  } as const;
  return workloadFor(limits, possible, (workload) =>
    planFor(model, engineOptions(source, options, { ...workload, masks: true })),
  );
}
