// `serve`: a model for many clients, by OpenAI's API.

import { StoreFolder } from '../batches/store-folder.js';
import { measureDriveLimit } from '../report/limits.js';
import { usualBodyBytes } from '../server/body.js';
import { ServerExtras } from '../server/extras.js';
import { Service, type ServiceOptions } from '../server/service.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';
import type { ServeOptions, ServerSettings } from './options/serve-options.js';
import { checkFiles, sharedInputs } from './results/run-files.js';
import { openServed, ownSampling, servedWorkload } from './served.js';
import { withSession } from './session.js';
import { openSource } from './source.js';

export async function runServe(options: ServeOptions, context: CommandContext): Promise<void> {
  checkFiles(sharedInputs(options), {}, options.name);
  const { dataFolder } = options;
  // A folder that another server has is refused before anything is loaded.
  const data = dataFolder === undefined ? undefined : await StoreFolder.open(dataFolder);
  try {
    await serveModel(options, data, context);
  } finally {
    data?.close();
  }
}

async function serveModel(
  options: ServeOptions,
  data: StoreFolder | undefined,
  context: CommandContext,
): Promise<void> {
  const source = await openSource(options, context, { tokenizer: true });
  const tokenizer = await loadTokenizer(source.opened.checkpoint.folder);
  const own = options.generationConfig ? ownSampling(source, context) : undefined;
  const workload = servedWorkload(source, options);
  await withSession({ source, options, workload, context }, async ({ engine }) => {
    const { contextTokens } = workload;
    const model = await openServed({ source, options, tokenizer, own, engine, contextTokens });
    try {
      // From the first request on the executor is the scheduler's alone.
      const driveBytesPerSecond = await measureDriveLimit(engine.executor);
      const extras = new ServerExtras({ engine, model, data, log: context.log, driveBytesPerSecond });
      try {
        const { groups: extra } = extras;
        const makings = { engine, model, log: context.log, extra };
        const service = new Service(makings, serviceOptions(options, contextTokens));
        extras.start(service.api);
        await serveUntilStopped(service, extras, options, context);
      } finally {
        await extras.close();
      }
    } finally {
      await model.answers?.grammars.close();
    }
  });
}

export interface Stopping extends Pick<ServerSettings, 'host' | 'port' | 'drainMs'> {
  /** Called at the first signal, before anything is closed. */
  readonly onStop?: () => void;
}

export async function serveUntilStopped(
  service: Service,
  extras: ServerExtras,
  options: Stopping,
  { log, interrupt }: CommandContext,
): Promise<void> {
  const forget = interrupt.onStop(() => service.close());
  try {
    const address = await listening(service, options);
    log.info(`serving at ${address}; Ctrl-C ends when the answers that are being made are there`);
    await interrupt.firstSignal(
      `no more requests are taken; waiting for up to ${options.drainMs / 1e3} s for answers`,
    );
    options.onStop?.();
    await Promise.all([extras.close(), service.drain()]);
    interrupt.signal.throwIfAborted();
  } finally {
    forget();
    await service.close();
  }
}

async function listening(service: Service, { host, port }: Stopping): Promise<string> {
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

/** @param contextTokens of the longest text, where that is known */
export function serviceOptions(
  options: ServerSettings & Partial<Pick<ServeOptions, 'mostOpenTokens' | 'maxWaitMs'>>,
  contextTokens: number | undefined,
): ServiceOptions {
  const { mostRequests, mostClientRequests = mostRequests, maxWaitMs = 0 } = options;
  return {
    ...options,
    maxWaitMs,
    mostBodyBytes: options.mostBodyBytes ?? usualBodyBytes(contextTokens),
    limits: {
      requests: mostRequests,
      requestsOfClient: mostClientRequests,
      tokens: options.mostOpenTokens ?? Number.POSITIVE_INFINITY,
      bytes: options.mostOpenBytes,
    },
  };
}
