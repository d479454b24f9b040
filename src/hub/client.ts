// What is asked of the hub: a model's files, a file's size and checksum, and its bytes from an offset on.

import { OperatingError } from '../../offload/index.js';
import { isJsonObject, show } from '../files/json-file.js';
import { type Answer, Http, type HttpOptions } from './http.js';
import { type RetryPolicy, retryAfterMs, Transient, withRetries } from './retry.js';

export interface ModelListing {
  readonly commit: string;
  readonly fileNames: readonly string[];
}

export interface FileMetadata {
  /** Names the blob in the cache. */
  readonly etag: string;
  readonly sizeBytes: number;
  /** SHA-256, which large files have as their etag. */
  readonly sha256: string | undefined;
}

const MAX_LISTING_BYTES = 64 * 1024 * 1024;
/** Commits and etags become names of files. */
const SAFE_NAME = /^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$/;
const RETRIED = new Set([408, 425, 429, 500, 502, 503, 504]);

/** One revision of one model. */
export class HubClient {
  readonly retries: RetryPolicy;
  readonly signal: AbortSignal;
  readonly #http: Http;
  readonly #options: HttpOptions;
  readonly #id: string;
  readonly #revision: string;

  constructor(id: string, revision: string, retries: RetryPolicy, options: HttpOptions) {
    this.retries = retries;
    this.signal = options.signal;
    this.#http = new Http(options);
    this.#options = options;
    this.#id = id;
    this.#revision = revision;
  }

  /** Errors: NOT_FOUND (also when the hub cannot be reached at all), NO_ACCESS, DOWNLOAD_FAILED. */
  async list(): Promise<ModelListing> {
    const revision = encodeURIComponent(this.#revision);
    const url = `${this.#options.endpoint}/api/models/${this.#id}/revision/${revision}`;
    const text = await this.#try(`the list of files of ${this.#id}`, async () => {
      const answer = await this.#http.request('GET', url);
      await this.#check(answer, this.#id);
      return textOf(answer);
    });
    const listing = parseJson(text);
    const { sha, siblings } = isJsonObject(listing) ? listing : {};
    if (typeof sha !== 'string' || !SAFE_NAME.test(sha) || !Array.isArray(siblings)) {
      throw new OperatingError(
        'DOWNLOAD_FAILED',
        `${url} answered ${show(text.slice(0, 80))}, which lists no files: check HF_ENDPOINT`,
      );
    }
    const names = siblings.map((entry: unknown) => (isJsonObject(entry) ? entry.rfilename : undefined));
    return { commit: sha, fileNames: names.filter((name) => typeof name === 'string') };
  }

  /** What the headers of the hub's own answer say, before it redirects to where large files lie. */
  metadata(commit: string, fileName: string): Promise<FileMetadata> {
    const url = this.#fileUrl(commit, fileName);
    return this.#try(`${this.#id}/${fileName}`, async () => {
      let { etag, sizeBytes } = await this.#head(url, fileName, true);
      // A mirror may leave it to the place that it redirects to.
      if (etag === undefined || sizeBytes === undefined) {
        const target = await this.#head(url, fileName, false);
        etag ??= target.etag;
        sizeBytes ??= target.sizeBytes;
      }
      if (etag === undefined || sizeBytes === undefined) {
        const lacking = etag === undefined ? 'etag' : 'size';
        throw new OperatingError('DOWNLOAD_FAILED', `${url} has no usable ${lacking}: check HF_ENDPOINT`);
      }
      return { etag, sizeBytes, sha256: /^[0-9a-f]{64}$/.test(etag) ? etag : undefined };
    });
  }

  async #head(url: string, fileName: string, sameOrigin: boolean): Promise<Partial<FileMetadata>> {
    const answer = await this.#http.request('HEAD', url, { sameOrigin });
    const { status, headers } = answer;
    await answer.close();
    if (status >= 400) await this.#check(answer, `${this.#id}/${fileName}`);
    // Length and etag of a redirect are those of its text.
    const own = (name: string) => (status < 300 ? headers.get(name) : null);
    const etag = (headers.get('x-linked-etag') ?? own('etag'))?.replace(/^W\//, '').replace(/^"(.*)"$/, '$1');
    const length = headers.get('x-linked-size') ?? own('content-length') ?? '';
    return {
      ...(etag !== undefined && SAFE_NAME.test(etag) ? { etag } : {}),
      ...(/^\d{1,15}$/.test(length) ? { sizeBytes: Number(length) } : {}),
    };
  }

  /** The file's bytes from `begin` on, or from 0 where the server knows no ranges. Errors: Transient and the others. */
  async open(commit: string, fileName: string, begin: number): Promise<{ begin: number; answer: Answer }> {
    const range: Record<string, string> = begin > 0 ? { range: `bytes=${begin}-` } : {};
    const answer = await this.#http.request('GET', this.#fileUrl(commit, fileName), { headers: range });
    const { status, headers } = answer;
    if (status === 200) return { begin: 0, answer };
    if (status === 206) {
      const sent = headers.get('content-range');
      if (Number(/^bytes (\d+)-/.exec(sent ?? '')?.[1]) === begin) return { begin, answer };
      await answer.close();
      throw new Transient(`the server sent ${show(sent)} when asked for bytes from ${begin} on`);
    }
    // It has no bytes from there on, so what we have cannot be the beginning of its file.
    if (status === 416 && begin > 0) {
      await answer.close();
      return this.open(commit, fileName, 0);
    }
    await this.#check(answer, `${this.#id}/${fileName}`);
    throw new Transient(`the server answered ${status}`);
  }

  #fileUrl(commit: string, fileName: string): string {
    // Slashes stay: a shard may lie in a folder.
    const place = [commit, ...fileName.split('/')].map(encodeURIComponent).join('/');
    return `${this.#options.endpoint}/${this.#id}/resolve/${place}`;
  }

  #try<T>(what: string, attempt: () => Promise<T>): Promise<T> {
    return withRetries(attempt, { what, policy: this.retries, signal: this.signal });
  }

  /** Throws for every status that is no success. The hub says more in a header than in the number. */
  async #check(answer: Answer, what: string): Promise<void> {
    const { status, headers } = answer;
    if (status < 300) return;
    await answer.close();
    if (RETRIED.has(status)) {
      throw new Transient(`the server answered ${status}`, {
        retryAfterMs: retryAfterMs(headers.get('retry-after')),
      });
    }
    const { endpoint, token } = this.#options;
    const code = headers.get('x-error-code');
    const at = `revision '${this.#revision}' of ${what} at ${endpoint}`;
    if ((status === 401 || status === 403) && code !== 'RepoNotFound') {
      const remedy = token
        ? `the token of HF_TOKEN must be valid and its account must have accepted the terms on ${endpoint}/${this.#id}`
        : `if it is gated, accept its terms on ${endpoint}/${this.#id}; then set HF_TOKEN to a token of that account`;
      throw new OperatingError('NO_ACCESS', `access to ${at} is refused (${status}): ${remedy}`);
    }
    if (status === 404 || code === 'RepoNotFound') {
      const remedy = token ? 'or HF_TOKEN may not see it' : 'or set HF_TOKEN if it is private';
      const absent = code === 'RevisionNotFound' ? 'there is no such revision' : 'check the spelling';
      throw new OperatingError('NOT_FOUND', `there is no ${at} (${status}): ${absent}, ${remedy}`);
    }
    const said = headers.get('x-error-message');
    throw new OperatingError(
      'DOWNLOAD_FAILED',
      `${at}: the answer was ${status}${said ? `, ${show(said)}` : ''}`,
    );
  }
}

async function textOf(answer: Answer): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for (let part = await answer.read(); part; part = await answer.read()) {
    parts.push(part);
    bytes += part.length;
    if (bytes > MAX_LISTING_BYTES) {
      await answer.close();
      throw new OperatingError('DOWNLOAD_FAILED', `the list of files exceeds ${MAX_LISTING_BYTES} bytes`);
    }
  }
  return Buffer.concat(parts).toString('utf8');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
