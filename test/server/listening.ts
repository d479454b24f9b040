// A server of a small model at a port of its own, and requests to it byte by byte.

import { cpSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Answering } from '../../src/api/reply.js';
import { Service, type ServiceOptions } from '../../src/server/service.js';
import { type Served, type ServedOptions, serve } from '../api/served.js';
import { modelFolder } from '../helpers/fixtures.js';

export interface Listening extends Omit<Served, 'api'> {
  readonly api: Answering;
  readonly service: Service;
  readonly address: string;
  readonly logs: readonly string[];
  close(): Promise<void>;
}

export const TEMPLATE = '{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:';

/** A model with a chat template, in that folder. */
export function chatModel(parent: string): string {
  const folder = join(parent, 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  return folder;
}

export async function listen(
  folder: string,
  options: Partial<ServiceOptions> = {},
  served: ServedOptions = {},
): Promise<Listening> {
  const opened = await serve(folder, served);
  const logs: string[] = [];
  const say = (line: string) => void logs.push(line);
  const log = { info: say, warn: say, error: say };
  const service = new Service(
    { ...opened, log },
    {
      host: '127.0.0.1',
      port: 0,
      keys: [],
      mostBodyBytes: 2 ** 20,
      limits: { requests: 1000, requestsOfClient: 1000, tokens: 1e9, bytes: 2 ** 26 },
      maxWaitMs: 0,
      drainMs: 60_000,
      logsBodies: false,
      ...options,
    },
  );
  const address = await service.listen();
  const close = async () => {
    await service.close();
    await opened.engine.close();
  };
  return { ...opened, api: service.api, service, address, logs, close };
}

/** What a server answers to these bytes, up to the end of the connection. */
export function exchange(address: string, bytes: string | Buffer): Promise<string> {
  const { hostname, port } = new URL(address);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(bytes));
    let answer = '';
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer += text;
    });
    socket.on('end', () => socket.end());
    socket.on('close', () => resolve(answer));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNRESET' || error.code === 'EPIPE') resolve(answer);
      else reject(error);
    });
  });
}

/** Until it holds; each look lets everything else happen first. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}
