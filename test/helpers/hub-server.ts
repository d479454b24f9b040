// A hub on this machine: lists a model's files, redirects large ones to another port as the real one does, and
// misbehaves on demand.

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface HubRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  /** To the port that large files are redirected to. */
  readonly storage: boolean;
}

/** Answers a request itself and returns true, or leaves it to the hub. */
export type Fault = (request: HubRequest, response: ServerResponse, content: Buffer) => boolean;

export const COMMIT = 'c0ffee'.repeat(6).padEnd(40, '0');

export class FakeHub {
  readonly requests: HubRequest[] = [];
  readonly files = new Map<string, Buffer>();
  /** Each is asked in turn; the first that answers counts. */
  faults: Fault[] = [];
  commit = COMMIT;
  /** Files of this size or more are stored elsewhere. */
  largeBytes = 1000;
  /** Most requests for file contents that were open at once. */
  mostAtOnce = 0;
  #atOnce = 0;
  readonly #hub: Server = createServer((request, response) => this.#answer(request, response, false));
  readonly #storage: Server = createServer((request, response) => this.#answer(request, response, true));

  static async start(files: Readonly<Record<string, string | Buffer>>): Promise<FakeHub> {
    const hub = new FakeHub();
    for (const [name, content] of Object.entries(files)) hub.files.set(name, Buffer.from(content));
    for (const server of [hub.#hub, hub.#storage]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    }
    return hub;
  }

  get endpoint(): string {
    return addressOf(this.#hub);
  }

  async stop(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** `GET config.json` and so on, of those that ask for a file's content. */
  downloads(name: string): HubRequest[] {
    return this.requests.filter(({ method, path }) => method === 'GET' && path.endsWith(`/${name}`));
  }

  etagOf(content: Buffer): string {
    if (content.length >= this.largeBytes) return createHash('sha256').update(content).digest('hex');
    return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
  }

  #answer(incoming: IncomingMessage, response: ServerResponse, storage: boolean): void {
    const { method = '', url = '', headers } = incoming;
    const path = decodeURIComponent(url);
    const request = { method, path, range: headers.range, authorization: headers.authorization, storage };
    this.requests.push(request);
    const name = /\/resolve\/[^/]+\/(.+)$/.exec(path)?.[1] ?? path.split('/').at(-1) ?? '';
    const content = this.files.get(name);
    this.#atOnce++;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.#atOnce);
    response.once('close', () => this.#atOnce--);
    if (this.faults.some((fault) => fault(request, response, content ?? Buffer.alloc(0)))) return;
    if (path.startsWith('/api/models/')) {
      const siblings = [...this.files.keys()].map((rfilename) => ({ rfilename }));
      response.end(JSON.stringify({ id: 'org/model', sha: this.commit, siblings }));
    } else if (!content || (!storage && !path.includes(`/resolve/${this.commit}/`))) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end();
    } else if (!storage && content.length >= this.largeBytes) {
      const linked = { 'x-linked-etag': `"${this.etagOf(content)}"`, 'x-linked-size': content.length };
      response.writeHead(302, {
        ...linked,
        location: `${addressOf(this.#storage)}${url}`,
        etag: '"redirect"',
      });
      response.end('Found. Redirecting');
    } else sendFile(request, response, content, { etag: `"${this.etagOf(content)}"` });
  }
}

/** The content, or the part that was asked for. */
export function sendFile(
  { method, range }: HubRequest,
  response: ServerResponse,
  content: Buffer,
  headers: Readonly<Record<string, string>> = {},
): void {
  const begin = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
  if (begin > 0 && begin >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
    return;
  }
  const part = content.subarray(begin);
  const place = { 'content-range': `bytes ${begin}-${content.length - 1}/${content.length}` };
  response.writeHead(range ? 206 : 200, {
    ...headers,
    'content-length': part.length,
    ...(range ? place : {}),
  });
  response.end(method === 'HEAD' ? undefined : part);
}

/** The first `times` requests for the content of `name` get `answer` instead. */
export function failing(name: string, times: number, answer: Fault, method = 'GET'): Fault {
  let left = times;
  return (request, response, content) => {
    const matches = request.method === method && request.path.endsWith(`/${name}`);
    // A redirect is not yet the content.
    if (!matches || left === 0 || !answer(request, response, content)) return false;
    left--;
    return true;
  };
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
