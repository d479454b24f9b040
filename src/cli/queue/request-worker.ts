// A worker of servers without a model: it has one, as `serve` would have it, and answers what they hand out.

import { counted } from '../../../offload/index.js';
import { Api } from '../../api/api.js';
import { requestsAtOnce } from '../../batches/run-batch.js';
import { asked, claimComputed, readJob } from '../../queue/record.js';
import { loadTokenizer } from '../../text/tokenizer/tokenizer.js';
import type { CommandContext } from '../context.js';
import type { WorkerOptions } from '../options/queue-options.js';
import { fingerprint, type RunSettings } from '../results/file.js';
import { identitySettings, readIdentity } from '../results/identity.js';
import { computeSettings } from '../results/resume.js';
import { openServed, ownSampling, type ServedOptions, servedWorkload } from '../served.js';
import { finishSession, withSession } from '../session.js';
import { openSource, type Source } from '../source.js';
import { packageVersion } from '../version.js';
import { checkComputed, checkVersion, checkWeights } from './job.js';
import { RequestMaker } from './request-maker.js';
import { type Answers, readAnswers } from './requests-job.js';
import { endOf, type WorkPlace, workThrough } from './work-through.js';

/** Rejects with what differs, where this worker would answer otherwise than the first. */
export async function answerRequests(place: WorkPlace, context: CommandContext): Promise<void> {
  const { record, connection, worker } = place;
  const answers = readAnswers(record);
  checkVersion(record);
  const question = asked(connection);
  const first = (await readJob(question))?.computed;
  // Packing takes long.
  if (first) checkComputed({ dtype: first.dtype }, { dtype: worker.packed ?? null });
  const options = servedOptions(worker, answers, first);
  const source = await openSource(options, context, { tokenizer: true });
  const workload = servedWorkload(source, options);
  const { contextTokens } = workload;
  const own = await settingsOf(source, options, contextTokens, context);
  const said = await claimComputed(question, own);
  checkComputed(said, own, ['weights']);
  checkWeights(said, own);
  const tokenizer = await loadTokenizer(source.opened.checkpoint.folder);
  const sampling = answers.generation_config ? ownSampling(source, context) : undefined;
  const { session, done } = await withSession({ source, options, workload, context }, async (session) => {
    const { engine, meter } = session;
    let passes = 0;
    engine.serveWith({
      maxWaitMs: 0,
      onPass: (pass) => {
        meter.pass(pass);
        passes++;
      },
    });
    const model = await openServed({ source, options, tokenizer, own: sampling, engine, contextTokens });
    const api = new Api(model, (fault) => context.log.warn(`a request failed: ${fault.message}`));
    const maker = new RequestMaker({ api, engine, signal: context.interrupt.signal });
    const sizes = { capacity: requestsAtOnce(engine.executor), partPrompts: 1, passes: () => passes };
    context.log.info(`answering requests for ${answers.served_model_name.join(', ')}; Ctrl-C ends it`);
    try {
      return { session, done: await workThrough(maker, { ...place, ...sizes, meter }, context) };
    } finally {
      await model.answers?.grammars.close();
    }
  });
  const made = `answered ${counted(done.texts, 'request')}`;
  await finishSession({ command: 'worker', source, session, options, context, ...endOf(done, made) });
}

/** What all workers have to say alike is the server's, or what the first of them has found to fit. */
function servedOptions(
  worker: WorkerOptions,
  answers: Answers,
  first: RunSettings | undefined,
): ServedOptions {
  const found = first?.max_context;
  return {
    ...worker,
    servedNames: answers.served_model_name,
    toolParser: answers.tool_parser ?? undefined,
    reasoningParser: answers.reasoning_parser ?? undefined,
    maxContext: answers.max_context ?? (typeof found === 'number' ? found : undefined),
    cacheTokens: undefined,
  };
}

async function settingsOf(
  source: Source,
  options: ServedOptions,
  contextTokens: number,
  context: CommandContext,
): Promise<RunSettings> {
  const { checkpoint, model } = source.opened;
  const identity = await readIdentity(source, { tokenizer: true, chatTemplate: true }, context);
  return {
    version: packageVersion(),
    model: model.architecture,
    configuration: fingerprint([checkpoint.config, checkpoint.totalBytes]).slice(0, 16),
    defaults: fingerprint([checkpoint.generationConfig]).slice(0, 16),
    ...identitySettings(identity),
    ...computeSettings(options),
    dtype: options.packed ?? null,
    max_context: contextTokens,
  };
}
