// What a server has beside texts: the page, and files and batches where it has a folder for them.

import type { Logger } from 'pino';
import { ApiError } from '../api/api-error.js';
import type { Answering } from '../api/reply.js';
import type { ServedModel } from '../api/served-model.js';
import { Batches } from '../batches/batches.js';
import { requestsAtOnce } from '../batches/run-batch.js';
import type { StoreFolder } from '../batches/store-folder.js';
import { StoredFiles } from '../batches/stored-files.js';
import type { Engine } from '../engine/engine.js';
import { batchRoutes } from './routes/batch-routes.js';
import { fileRoutes } from './routes/file-routes.js';
import { pageRoutes } from './routes/page-routes.js';
import type { RouteGroup } from './server-parts.js';

/** A model of this process, which the page shows. */
export interface ShownModel {
  readonly engine: Engine;
  readonly model: ServedModel;
  readonly driveBytesPerSecond?: number | undefined;
}

/** Or so many requests of a batch that others are to have at once. */
export type ExtrasOptions = (ShownModel | { readonly atOnce: number }) & {
  /** The folder of files and batches, which is closed with the rest; undefined: there are none. */
  readonly data: StoreFolder | undefined;
  readonly mostFileBytes?: number;
  readonly log: Pick<Logger, 'info' | 'warn'>;
};

const MOST_FILE_BYTES = 16 * 2 ** 30;

interface Store {
  readonly folder: StoreFolder;
  readonly files: StoredFiles;
  readonly batches: Batches;
}

export class ServerExtras {
  readonly groups: readonly RouteGroup[];
  readonly #store: Store | undefined;
  #api: Answering | undefined;
  #closing: Promise<void> | undefined;

  /** Throws READ_FAILED where the folder is damaged. */
  constructor(options: ExtrasOptions) {
    this.#store = options.data && this.#open(options.data, options);
    const { mostFileBytes = MOST_FILE_BYTES } = options;
    const parts = this.#store && { ...this.#store, mostFileBytes };
    this.groups = [
      ...('engine' in options ? [this.#page(options)] : []),
      ...(parts ? [fileRoutes(parts), batchRoutes(parts)] : [withoutStore]),
    ];
  }

  /** Goes on with batches that are open. */
  start(api: Answering): void {
    this.#api = api;
    this.#store?.batches.start();
  }

  /** Requests of batches that are on their way are asked again by the next server. More than once is no fault. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#store?.batches.close();
    this.#store?.folder.close();
  }

  #page({ engine, model, driveBytesPerSecond }: ShownModel): RouteGroup {
    return pageRoutes({
      engine,
      modelName: model.names[0] ?? '',
      driveBytesPerSecond,
      stored: () => this.#store?.batches.open ?? { batches: 0, requests: 0 },
    });
  }

  #open(folder: StoreFolder, options: ExtrasOptions): Store {
    const { log } = options;
    const files = new StoredFiles(folder);
    const batches = new Batches({
      store: folder,
      files,
      atOnce: 'engine' in options ? requestsAtOnce(options.engine.executor) : options.atOnce,
      tell: (sentence, isProblem = false) => (isProblem ? log.warn(sentence) : log.info(sentence)),
      answer: async (path, body, asking) => {
        if (!this.#api) throw new Error('batches begin when there is somebody to answer them');
        return this.#api.answerWhole(path, body, asking);
      },
    });
    return { folder, files, batches };
  }
}

const withoutStore: RouteGroup = (app) => {
  for (const path of ['/v1/files', '/v1/files/*', '/v1/batches', '/v1/batches/*']) {
    app.all(path, async () => {
      throw new ApiError('this server has no folder for files and batches: start it with --data FOLDER', {
        status: 501,
        type: 'invalid_request_error',
        code: 'no_store',
      });
    });
  }
};
