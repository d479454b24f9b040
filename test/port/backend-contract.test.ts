// Runs the contract suite against every backend there is.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe } from 'vitest';
import { CpuBackend, type CpuBackendOptions } from '../../offload/backends/cpu.js';
import { CudaBackend, cudaStatus } from '../../offload/backends/cuda.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { SimulatedBackend } from '../simulator/simulated.js';
import { backendContract, type OpenBackend } from './backend-contract.js';

function simulated(seed: number, deviceCount: number, computesInPlace: boolean): OpenBackend {
  return (files) => {
    const backend = new SimulatedBackend({ seed, deviceCount, computesInPlace, files });
    return { backend, path: (name) => name, until: (promise) => backend.until(promise, 'the test') };
  };
}

function cpu(options: CpuBackendOptions): OpenBackend {
  return (files) => {
    const folder = tempFolder();
    const path = (name: string) => join(folder, name);
    for (const [name, content] of files) writeFileSync(path(name), content);
    return { backend: new CpuBackend(options), path, until: (promise) => promise };
  };
}

const cuda: OpenBackend = (files) => {
  const folder = tempFolder();
  const path = (name: string) => join(folder, name);
  for (const [name, content] of files) writeFileSync(path(name), content);
  return { backend: new CudaBackend(), path, until: (promise) => promise };
};

for (const seed of [1, 2, 3]) {
  backendContract(`simulated, in place (seed ${seed})`, simulated(seed, 1, true));
  backendContract(`simulated, four devices (seed ${seed})`, simulated(seed, 4, false));
}
backendContract('cpu', cpu({}));
backendContract('cpu, three devices', cpu({ virtualDevices: 3 }));
backendContract('cpu, threads instead of io_uring', cpu({ io: { engine: 'threads' } }));
describe.skipIf(cudaStatus().problem !== '')('on a GPU', () => backendContract('cuda', cuda));
