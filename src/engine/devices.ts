// The devices of an engine: their backend, and how layers reach several of them.

import {
  CpuBackend,
  CudaBackend,
  checkInstructions,
  decideTransfer,
  defaultTransfer,
  type LoadAhead,
  type ModelSpec,
  OperatingError,
  slicesTransfer,
  stagesTransfer,
  type Transfer,
} from '../../offload/index.js';
import type { EngineOptions } from './engine-options.js';

export function openBackend(
  { device, cpu, cuda }: EngineOptions,
  nccl: boolean,
  host?: LoadAhead['host'],
): CpuBackend | CudaBackend {
  if (device === 'cuda') return new CudaBackend({ ...cuda, nccl }, host);
  checkInstructions();
  return new CpuBackend(cpu, host);
}

/**
 * How layers reach the devices: as was said, or decided by a short measurement on a backend of its own, so that its
 * memory is free again when the plan's is allocated. Rejects with NO_DEVICE, DOES_NOT_FIT or DEVICE_FAILED.
 */
export async function transferFor(
  options: EngineOptions,
  { shares }: Pick<ModelSpec, 'shares'> = {},
): Promise<Transfer> {
  const { device, cpu, cuda, gather = 'auto', plan } = options;
  if (plan?.transfer) return plan.transfer;
  if (shares) return slicesTransfer(shares.length);
  const count = device === 'cuda' ? (cuda?.devices?.length ?? 1) : (cpu?.virtualDevices ?? 0);
  if (plan?.pipeline) return stagesTransfer(count);
  if (count <= 1) return defaultTransfer(1, count === 0);
  // Virtual devices are there to try the real ones' way: all their copies are within one memory.
  if (device !== 'cuda' && gather === 'auto') return defaultTransfer(count, false);
  if (device !== 'cuda' && gather === 'nccl') {
    throw new OperatingError('BAD_OPTION', '--gather is nccl, which is of GPUs: give peer or none');
  }
  const backend = openBackend(options, gather === 'nccl');
  try {
    return await decideTransfer(backend, gather);
  } finally {
    await backend.close();
  }
}
