// A model that is served at a port of its own, for what is measured and mutated.

import { servedModel } from '../../src/api/served-model.js';
import { Engine } from '../../src/engine/engine.js';
import { openModel } from '../../src/engine/open-model.js';
import { ROOM_FOR_WISHES } from '../../src/library/workload.js';
import { Service } from '../../src/server/service.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';

export interface OpenedService {
  readonly engine: Engine;
  readonly address: string;
  /** What the server said of faults. */
  readonly faults: readonly string[];
  close(): Promise<void>;
}

export interface OpenedServiceOptions {
  readonly sequences: number;
  readonly contextTokens: number;
  readonly threads?: number;
  readonly mostRequests?: number;
  readonly patienceMs?: number;
  readonly mostBodyBytes?: number;
}

export async function openEngine(
  folder: string,
  { sequences, contextTokens, threads }: OpenedServiceOptions,
): Promise<Engine> {
  return Engine.open(await openModel(folder), {
    offload: 'dram',
    device: 'cpu',
    cpu: threads === undefined ? {} : { threads },
    workload: { sequences, contextTokens, promptTokens: contextTokens, output: 'tokens', ...ROOM_FOR_WISHES },
  });
}

export async function openService(folder: string, options: OpenedServiceOptions): Promise<OpenedService> {
  const { contextTokens, mostRequests = 10_000, patienceMs = 60_000, mostBodyBytes = 2 ** 20 } = options;
  const opened = await openModel(folder);
  const tokenizer = await loadTokenizer(folder);
  const engine = await openEngine(folder, options);
  const model = servedModel({ opened, engine, tokenizer, names: ['m'], contextTokens, own: undefined });
  const faults: string[] = [];
  const log = {
    info: () => undefined,
    warn: () => undefined,
    error: (line: string) => void faults.push(line),
  };
  const service = new Service(
    { engine, model, log },
    {
      host: '127.0.0.1',
      port: 0,
      keys: [],
      mostBodyBytes,
      limits: { requests: mostRequests, requestsOfClient: mostRequests, tokens: 1e12, bytes: 2 ** 30 },
      maxWaitMs: 0,
      drainMs: 10_000,
      logsBodies: false,
      patienceMs,
    },
  );
  const address = await service.listen();
  const close = async () => {
    await service.close();
    await engine.close();
  };
  return { engine, address, faults, close };
}
