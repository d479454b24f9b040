// Where the hub and its local cache are, from the environment variables that Python's huggingface_hub reads.

import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { readSmallFile } from '../files/regular-file.js';
import { expandPath, type Variables } from './expand-path.js';

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
const MAX_TOKEN_BYTES = 64 * 1024;

/** Errors: BAD_OPTION for an endpoint that is no address. */
export async function readHubEnvironment(env: Variables): Promise<HubEnvironment> {
  const expand = (path: string | undefined) => expandPath(path, env);
  const home =
    expand(env.HF_HOME) ?? join(expand(env.XDG_CACHE_HOME) ?? expand('~/.cache') ?? '', 'huggingface');
  return {
    endpoint: endpointOf(env.HF_ENDPOINT),
    cacheFolder: expand(env.HF_HUB_CACHE) ?? expand(env.HUGGINGFACE_HUB_CACHE) ?? join(home, 'hub'),
    token: (await tokenOf(env, home)) || undefined,
    // Only an empty HF_HUB_OFFLINE leaves it to the other, as with Python's client.
    offline: isSet(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
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
  const given = cleaned(env.HF_TOKEN) || cleaned(env.HUGGING_FACE_HUB_TOKEN);
  if (given) return given;
  if (isSet(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return '';
  const path = expandPath(env.HF_TOKEN_PATH, env) ?? join(home, 'token');
  const stored = await readSmallFile(path, MAX_TOKEN_BYTES, 'BAD_INPUT').catch(() => undefined);
  return cleaned(stored?.toString('utf8'));
}

/** A line break in a token would break the header that carries it. */
function cleaned(token: string | undefined): string {
  return (token ?? '').replaceAll(/[\r\n]/g, '').trim();
}

function isSet(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? '');
}
