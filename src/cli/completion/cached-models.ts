// The models of the hub that are in its cache, by name.

import { readdir } from 'node:fs/promises';
import { readHubEnvironment } from '../../hub/environment.js';

/** None where the cache cannot be read: a shell that asks has no use for a sentence. */
export async function cachedModels(): Promise<string[]> {
  try {
    const { cacheFolder } = await readHubEnvironment(process.env);
    return (await readdir(cacheFolder)).flatMap((name) => {
      const [, id] = /^models--(.+)$/.exec(name) ?? [];
      return id === undefined ? [] : [id.replaceAll('--', '/')];
    });
  } catch {
    return [];
  }
}
