// One HTTP exchange with the hub: redirects, the token, and a server that falls silent. Nothing is tried twice here.

import { OperatingError } from '../../offload/index.js';
import { reason, show } from '../files/json-file.js';
import { stopIfAborted, Transient } from './retry.js';

export interface HttpOptions {
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly signal: AbortSignal;
  /** A server that sends nothing for so long is taken for dead. */
  readonly stallMs: number;
}

/** An answer that must be read to its end or closed; both free the connection. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** The next bytes, or undefined at the end. Errors: Transient, and what the signal was aborted with. */
  read(): Promise<Uint8Array | undefined>;
  close(): Promise<void>;
}

const MAX_REDIRECTS = 10;
const UNREACHABLE = /^(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|EHOSTUNREACH|UND_ERR_CONNECT_TIMEOUT)$/;

export class Http {
  readonly #options: HttpOptions;
  #reached = false;

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /**
   * With `sameOrigin`, a redirect elsewhere is the answer: its headers are the hub's own.
   * Errors: Transient; NOT_FOUND when nothing was ever reached.
   */
  async request(
    method: 'GET' | 'HEAD',
    url: string,
    options: { readonly sameOrigin?: boolean; readonly headers?: Readonly<Record<string, string>> } = {},
  ): Promise<Answer> {
    let current = url;
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      const answer = await this.#send(method, current, options.headers ?? {});
      const location = answer.headers.get('location');
      if (answer.status < 300 || answer.status >= 400 || location === null) return answer;
      const next = URL.canParse(location, current) ? new URL(location, current) : undefined;
      if (options.sameOrigin && next && next.origin !== new URL(current).origin) return answer;
      await answer.close();
      if (!next || !/^https?:$/.test(next.protocol)) throw new Transient(`redirected to ${show(location)}`);
      current = next.href;
    }
    throw new Transient(`redirected more than ${MAX_REDIRECTS} times`);
  }

  async #send(method: string, url: string, headers: Readonly<Record<string, string>>): Promise<Answer> {
    const { endpoint, token, signal } = this.#options;
    stopIfAborted(signal);
    const stall = new AbortController();
    // The token is the hub's: what it redirects to must not see it.
    const ours = new URL(url).origin === new URL(endpoint).origin;
    const response = await this.#watched(
      stall,
      fetch(url, {
        method,
        redirect: 'manual',
        signal: AbortSignal.any([signal, stall.signal]),
        headers: {
          'user-agent': 'zero-inference',
          // Lengths are to be those of the files.
          'accept-encoding': 'identity',
          ...(token && ours ? { authorization: `Bearer ${token}` } : {}),
          ...headers,
        },
      }),
    );
    this.#reached = true;
    const reader = response.body?.getReader();
    return {
      status: response.status,
      headers: response.headers,
      read: async () => (reader ? (await this.#watched(stall, reader.read())).value : undefined),
      close: async () => {
        await reader?.cancel().catch(() => undefined);
      },
    };
  }

  /** Gives up when nothing comes, and says why a connection broke. */
  async #watched<T>(stall: AbortController, work: Promise<T>): Promise<T> {
    const { signal, stallMs, endpoint } = this.#options;
    const timer = setTimeout(() => stall.abort(), stallMs);
    try {
      return await work;
    } catch (error) {
      stopIfAborted(signal);
      const why = stall.signal.aborted ? `nothing came for ${stallMs / 1000} s` : networkReason(error);
      if (!this.#reached && UNREACHABLE.test(networkCode(error))) {
        throw new OperatingError(
          'NOT_FOUND',
          `${endpoint} cannot be reached (${why}): check the network or HF_ENDPOINT`,
          { cause: error },
        );
      }
      throw new Transient(`the connection broke (${why})`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** fetch says "fetch failed" and hides why in the cause. */
function networkCode(error: unknown): string {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string') return at.code;
  }
  return '';
}

function networkReason(error: unknown): string {
  let last = error;
  while (last instanceof Error && last.cause !== undefined) last = last.cause;
  return networkCode(error) || reason(last);
}
