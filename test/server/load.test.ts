// Short forms of the runs in bench/server: many clients of all manners at once, and mutated requests.

import { expect, it } from 'vitest';
import { runLoad } from '../../bench/server/load-run.js';
import { runMutations } from '../../bench/server/mutation-run.js';
import { openService } from '../../bench/server/opened.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { chatModel } from './listening.js';

const MODEL = chatModel(sharedFolder()());

it('many clients that stream, read slowly, leave and talk nonsense get each their own answer, and nothing stays behind', async () => {
  const service = await openService(MODEL, { sequences: 4, contextTokens: 128, threads: 1 });
  const { asked, problems } = await runLoad(service, { clients: 24, requestsEach: 6, seed: 5 });
  expect(problems).toEqual([]);
  expect(Math.min(...Object.values(asked))).toBeGreaterThan(5);
  await service.engine.whenIdle();
  const metrics = await (await fetch(`${service.address}/metrics`)).text();
  expect(metrics).toMatch(/^zero_inference_open_requests 0$/m);
  expect(service.faults).toEqual([]);
  await service.close();
});

it('mutated requests are answered or refused', async () => {
  const service = await openService(MODEL, { sequences: 8, contextTokens: 64, threads: 1 });
  const { failures, statuses } = await runMutations(service.address, { first: 0, count: 400, parallel: 8 });
  expect(service.faults).toEqual([]);
  expect(failures).toEqual([]);
  expect(statuses['400']).toBeGreaterThan(50);
  expect(statuses['200']).toBeGreaterThan(20);
  await service.close();
});
