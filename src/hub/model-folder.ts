// From what the user calls a model to a folder: one that exists, one in the hub's cache, or a download into it.

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { exists, ModelCache, missingPart } from './cache.js';
import { HubClient } from './client.js';
import { type HubEnvironment, readHubEnvironment } from './environment.js';
import type { Variables } from './expand-path.js';
import { DEFAULT_RETRIES, type RetryPolicy } from './retry.js';
import { type DownloadProgress, downloadSnapshot, TOKENIZERS } from './snapshot.js';

export type { DownloadProgress } from './snapshot.js';

export interface ResolveOptions {
  /** Branch, tag or commit; `main` when absent. */
  readonly revision?: string | undefined;
  /** Stops a download; what is there is kept and resumed. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** Called with the folder when nothing but config.json is there: throw to refuse the model. */
  readonly afterConfig?: ((folder: string) => void | Promise<void>) | undefined;
  /** Called with the folder before any weights are downloaded: throw to refuse the model. */
  readonly beforeWeights?: ((folder: string) => void | Promise<void>) | undefined;
  /** Called before the first request to the hub. */
  readonly onDownload?: ((cacheFolder: string) => void) | undefined;
  /** HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN; the process's own when absent. */
  readonly env?: Variables | undefined;
  readonly retries?: RetryPolicy | undefined;
  readonly stallMs?: number | undefined;
}

/** `name` or `organisation/name`, as the hub allows them. */
const HUB_ID = /^(?!.*(\.\.|--|\.json$))[A-Za-z0-9][\w.-]{0,95}(\/[A-Za-z0-9][\w.-]{0,95})?$/;
/** No part may climb out of the cache's folder. */
const REVISION = /^(?!.*(\.\.|\/\/))[\w][\w./+@-]{0,254}$/;
const STALL_MS = 60_000;

/**
 * A folder that holds the model: `nameOrPath` itself where it exists, otherwise the cached or downloaded snapshot.
 * What is in the cache is used as it is, without asking the hub; what looks like no hub id is returned unchanged.
 * Errors: NOT_FOUND, NO_ACCESS, DOWNLOAD_FAILED, NO_SPACE, WRITE_FAILED, BAD_OPTION, BAD_INDEX, INTERRUPTED.
 */
export async function resolveModelFolder(nameOrPath: string, options: ResolveOptions = {}): Promise<string> {
  const here = await ifThere(nameOrPath, stat(nameOrPath));
  if (here || !HUB_ID.test(nameOrPath)) return nameOrPath;
  const revision = options.revision ?? 'main';
  if (!REVISION.test(revision)) {
    throw new OperatingError('BAD_OPTION', `--revision is '${revision}': give a branch, a tag or a commit`);
  }
  const environment = await readHubEnvironment(options.env ?? process.env);
  const cache = new ModelCache(environment.cacheFolder, nameOrPath);
  const cached = await cache.find(revision);
  const missing = cached ? await missingPart(cached) : undefined;
  if (cached && missing === undefined && (environment.offline || (await tokenizerIsKnown(cache, cached))))
    return cached;
  const [found, remedy] = await describeCached(cache, revision, missing);
  const where = `there is no folder '${nameOrPath}', and ${environment.cacheFolder} has ${found}`;
  if (environment.offline) {
    throw new OperatingError('NOT_FOUND', `${where}: ${remedy}unset HF_HUB_OFFLINE to download it`);
  }
  return download({ id: nameOrPath, revision, cache, environment, options }).catch((error: unknown) => {
    if (!(error instanceof OperatingError) || error.code !== 'NOT_FOUND') throw error;
    throw new OperatingError('NOT_FOUND', `${where}; ${error.message}`, { cause: error });
  });
}

/** What the cache has instead of what was asked for, and what can be done about it. */
async function describeCached(
  cache: ModelCache,
  revision: string,
  missing: string | undefined,
): Promise<[string, string]> {
  if (missing) return [`no ${missing} of that model (revision '${revision}')`, ''];
  const commits = await cache.commits();
  const [first] = commits;
  if (first === undefined) return [`no model of that name (revision '${revision}')`, ''];
  // A copied cache often lacks its refs. Which commit a branch was cannot be guessed; Python's client does not either.
  const snapshots =
    commits.length === 1
      ? `a snapshot of that model (${first})`
      : `${commits.length} snapshots of that model`;
  return [
    `${snapshots}, but nothing there says which commit revision '${revision}' is (${join(cache.folder, 'refs', revision)})`,
    `give --revision ${first}${commits.length > 1 ? ' or another of them' : ''}, or `,
  ];
}

/** A snapshot may have been made for its weights alone. Python marks files that a commit does not have. */
async function tokenizerIsKnown(cache: ModelCache, folder: string): Promise<boolean> {
  let allAbsent = true;
  for (const name of TOKENIZERS) {
    if (await exists(join(folder, name))) return true;
    allAbsent &&= await cache.isKnownAbsent(folder, name);
  }
  return allAbsent;
}

interface Download {
  readonly id: string;
  readonly revision: string;
  readonly cache: ModelCache;
  readonly environment: HubEnvironment;
  readonly options: ResolveOptions;
}

function download({ id, revision, cache, environment, options }: Download): Promise<string> {
  const { endpoint, token, cacheFolder } = environment;
  options.onDownload?.(cacheFolder);
  const stopper = new AbortController();
  const signals = options.signal ? [options.signal, stopper.signal] : [stopper.signal];
  const client = new HubClient(id, revision, options.retries ?? DEFAULT_RETRIES, {
    endpoint,
    token,
    signal: AbortSignal.any(signals),
    stallMs: options.stallMs ?? STALL_MS,
  });
  const { onProgress, afterConfig, beforeWeights } = options;
  const stop = (error: unknown) => stopper.abort(error);
  return downloadSnapshot({ client, stop, cache, id, revision, onProgress, afterConfig, beforeWeights });
}
