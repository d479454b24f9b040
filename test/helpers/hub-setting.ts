// A fake hub, an empty cache, and calls that go from the one to the other without waiting.

import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { type ResolveOptions, resolveModelFolder } from '../../src/hub/model-folder.js';
import type { RetryPolicy } from '../../src/hub/retry.js';
import { FakeHub, type Fault } from './hub-server.js';
import { randomFrom, randomInt } from './random.js';
import { tempFolder } from './temp-folder.js';

const random = randomFrom(5);
export const bytes = (count: number) =>
  Buffer.from(Array.from({ length: count }, () => randomInt(random, 256)));
export const WEIGHTS = bytes(200_000);
export const FILES = {
  'config.json': '{"model_type":"gpt2"}',
  'generation_config.json': '{}',
  'tokenizer.json': '{"model":{}}',
  'tokenizer_config.json': '{}',
  'model.safetensors': WEIGHTS,
  'pytorch_model.bin': bytes(3000),
  'README.md': '# Model',
  'onnx/model.onnx': bytes(3000),
};

export interface Setting {
  readonly hub: FakeHub;
  readonly cacheFolder: string;
  readonly pauses: number[];
  readonly repo: string;
  resolve(options?: ResolveOptions, name?: string): Promise<string>;
  blob(content: string | Buffer): string;
}

export async function setting(files: Readonly<Record<string, string | Buffer>> = FILES): Promise<Setting> {
  const hub = await FakeHub.start(files);
  onTestFinished(() => hub.stop());
  const cacheFolder = tempFolder();
  const pauses: number[] = [];
  const retries: RetryPolicy = {
    attempts: 4,
    firstPauseMs: 1000,
    maxPauseMs: 30_000,
    pause: async (ms) => void pauses.push(ms),
  };
  const repo = join(cacheFolder, 'models--org--model');
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_HOME: cacheFolder };
  return {
    hub,
    cacheFolder,
    pauses,
    repo,
    resolve: (options = {}, name = 'org/model') =>
      resolveModelFolder(name, { retries, ...options, env: { ...env, ...options.env } }),
    blob: (content) => join(repo, 'blobs', hub.etagOf(Buffer.from(content))),
  };
}

export async function failureOf(work: Promise<unknown>): Promise<OperatingError> {
  const error: unknown = await work.catch((thrown: unknown) => thrown);
  if (!(error instanceof OperatingError))
    throw new Error(`expected an operating error, got ${String(error)}`);
  return error;
}

/** Sends a part of what was asked for, and then breaks the connection. */
export const dropAfter =
  (count: number): Fault =>
  (request, response, content) => {
    if (!request.storage && content.length >= 1000) return false;
    const begin = Number(/\d+/.exec(request.range ?? '0')?.[0]);
    response.writeHead(request.range ? 206 : 200, {
      'content-length': content.length - begin,
      ...(request.range ? { 'content-range': `bytes ${begin}-${content.length - 1}/${content.length}` } : {}),
    });
    response.write(content.subarray(begin, begin + count), () => setImmediate(() => response.destroy()));
    return true;
  };

export const status =
  (code: number, headers: Record<string, string> = {}): Fault =>
  (_request, response) => {
    response.writeHead(code, headers).end('no');
    return true;
  };
