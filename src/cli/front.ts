// `serve --queue`: a server without a model, which hands requests to workers and keeps batches until they are answered.

import { StoreFolder } from '../batches/store-folder.js';
import { QueueConnection } from '../queue/connection.js';
import { asked } from '../queue/record.js';
import { RequestQueue } from '../queue/requests.js';
import { checkServer } from '../queue/server.js';
import { ServerExtras } from '../server/extras.js';
import { type HandedRequest, QueueApi } from '../server/queue-api.js';
import { Service } from '../server/service.js';
import type { CommandContext } from './context.js';
import type { FrontOptions } from './options/front-options.js';
import { openRequestsJob } from './queue/requests-job.js';
import { serveUntilStopped, serviceOptions } from './serve.js';

/** Requests of a batch that lie in the queue at once, where they have room: enough for many workers. */
const AT_ONCE = 4096;

export async function runFront(options: FrontOptions, context: CommandContext): Promise<void> {
  const { dataFolder } = options;
  // A folder that another server has is refused before anybody is asked.
  const data = dataFolder === undefined ? undefined : await StoreFolder.open(dataFolder);
  const tell = (sentence: string) => context.log.warn(sentence);
  const connection = new QueueConnection(options.address, { tell, signal: context.interrupt.signal });
  try {
    await serveQueue(options, { connection, data }, context);
  } finally {
    connection.close();
    data?.close();
  }
}

async function serveQueue(
  options: FrontOptions,
  { connection, data }: { readonly connection: QueueConnection; readonly data: StoreFolder | undefined },
  context: CommandContext,
): Promise<void> {
  const { log } = context;
  for (const sentence of await checkServer(asked(connection))) log.warn(sentence);
  const record = await openRequestsJob(connection, options);
  const { roomBytes, servedNames: names, maxContext: contextTokens } = options;
  const requests = new RequestQueue<HandedRequest>(connection, {
    record,
    roomBytes,
    tell: (sentence) => log.warn(sentence),
  });
  const api = new QueueApi({ requests, names, contextTokens });
  const extras = new ServerExtras({ atOnce: AT_ONCE, data, log });
  try {
    const service = new Service({ api, log, extra: extras.groups }, serviceOptions(options, contextTokens));
    extras.start(api);
    const where = `handing requests to workers of job ${options.address.job} at ${options.address.shown}`;
    log.info(where);
    await Promise.race([
      requests.ended,
      serveUntilStopped(service, extras, { ...options, onStop: () => requests.leave() }, context),
    ]);
  } finally {
    requests.close();
    await extras.close();
  }
}
