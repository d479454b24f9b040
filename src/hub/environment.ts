// Where the hub and its local cache are, from the environment variables that Python's huggingface_hub reads.

import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';

export type Variables = Readonly<Record<string, string | undefined>>;

export interface HubEnvironment {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** Holds a `models--org--name` folder per model. */
  readonly cacheFolder: string;
  readonly token: string | undefined;
  /** Nothing may be asked of the network. */
  readonly offline: boolean;
}

const DEFAULT_ENDPOINT = 'https://huggingface.co';

/** Errors: BAD_OPTION for an endpoint that is no address. */
export async function readHubEnvironment(env: Variables): Promise<HubEnvironment> {
  const home =
    expand(env.HF_HOME) ?? join(expand(env.XDG_CACHE_HOME) ?? join(homedir(), '.cache'), 'huggingface');
  return {
    endpoint: endpointOf(env.HF_ENDPOINT),
    cacheFolder: expand(env.HF_HUB_CACHE) ?? expand(env.HUGGINGFACE_HUB_CACHE) ?? join(home, 'hub'),
    token: (await tokenOf(env, home)) || undefined,
    offline: isSet(env.HF_HUB_OFFLINE) || isSet(env.TRANSFORMERS_OFFLINE),
  };
}

function endpointOf(value: string | undefined): string {
  const endpoint = (value || DEFAULT_ENDPOINT).replace(/\/+$/, '');
  if (/^https?:\/\/[^/]/.test(endpoint) && URL.canParse(endpoint)) return endpoint;
  throw new OperatingError(
    'BAD_OPTION',
    `HF_ENDPOINT is '${value}': write an address such as ${DEFAULT_ENDPOINT}`,
  );
}

/** HF_TOKEN, or what `huggingface-cli login` stored. */
async function tokenOf(env: Variables, home: string): Promise<string> {
  const given = env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN;
  if (given) return given.trim();
  if (isSet(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return '';
  const stored = await readFile(expand(env.HF_TOKEN_PATH) ?? join(home, 'token'), 'utf8').catch(() => '');
  return stored.trim();
}

function expand(path: string | undefined): string | undefined {
  if (!path) return undefined;
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}

function isSet(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? '');
}
