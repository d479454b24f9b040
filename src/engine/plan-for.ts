// The plan of an engine: what was asked for, within what this machine has.

import {
  counted,
  cudaStatus,
  detectHardware,
  formatBytes,
  MiB,
  type ModelSpec,
  makePlan,
  OperatingError,
  type Plan,
  type PlanOptions,
  usableProcessors,
  type Workload,
} from '../../offload/index.js';
import type { EngineOptions } from './engine-options.js';

/** Share of the available memory that is taken when no budget is given; the rest stays with the system. */
export const DRAM_SHARE = 0.85;

export function planFor(model: ModelSpec, options: EngineOptions): Plan {
  checkContext(model, options.workload);
  const available = options.dramBudgetBytes === undefined;
  const { dramAvailableBytes = detectHardware().dramAvailableBytes } = options;
  return makePlan(model, options.workload, {
    offload: options.offload,
    dramBudgetBytes: options.dramBudgetBytes ?? Math.floor(dramAvailableBytes * DRAM_SHARE),
    dramBudgetName: available
      ? `the memory that may be used on this machine (${DRAM_SHARE * 100} % of what is available)`
      : '--dram_memory',
    ...(options.device === 'cuda' ? gpuOptions(options) : cpuOptions(options)),
    ...options.plan,
  });
}

type DeviceOptions = Pick<
  PlanOptions,
  | 'deviceCount'
  | 'computesInPlace'
  | 'cuda'
  | 'hostThreads'
  | 'deviceBudgetBytes'
  | 'deviceBudgets'
  | 'deviceBudgetName'
>;

function cpuOptions({ cpu }: EngineOptions): DeviceOptions {
  const virtualDevices = cpu?.virtualDevices ?? 0;
  return { deviceCount: Math.max(1, virtualDevices), computesInPlace: virtualDevices === 0 };
}

/** What others may take meanwhile, where the budget is what is free. */
export const DEVICE_MARGIN_BYTES = 256 * MiB;

/** Throws NO_DEVICE. */
function gpuOptions({ cuda, deviceBudgetBytes }: EngineOptions): DeviceOptions {
  const { problem, devices } = cudaStatus();
  if (problem !== '') throw new OperatingError('NO_DEVICE', `CUDA cannot be used: ${problem}`);
  const used = cuda?.devices ?? [0];
  return {
    deviceCount: used.length,
    computesInPlace: false,
    cuda: true,
    hostThreads: usableProcessors().threads,
    ...gpuBudgets(
      used.map((index) => ({ index, freeBytes: devices[index]?.freeBytes ?? 0 })),
      deviceBudgetBytes,
    ),
  };
}

/** What a plan may take of these GPUs. Where not all have as much free, the one that binds is named. */
export function gpuBudgets(
  gpus: readonly { readonly index: number; readonly freeBytes: number }[],
  asked: number | undefined,
): Pick<DeviceOptions, 'deviceBudgetBytes' | 'deviceBudgets' | 'deviceBudgetName'> {
  const free = Math.min(...gpus.map(({ freeBytes }) => freeBytes));
  const least = gpus.find(({ freeBytes }) => freeBytes === free);
  const isAlone = gpus.some(({ freeBytes }) => freeBytes - free > DEVICE_MARGIN_BYTES);
  const named = asked !== undefined && asked <= free;
  const less = (bytes: number) => Math.max(0, bytes - DEVICE_MARGIN_BYTES);
  const where = isAlone && least ? `cuda:${least.index}, which has the least,` : 'the GPU';
  return {
    deviceBudgetBytes: named ? asked : less(free),
    deviceBudgets: gpus.map(({ freeBytes }) => Math.min(less(freeBytes), asked ?? less(freeBytes))),
    deviceBudgetName: named
      ? '--gpu_memory'
      : `what is free on ${where} less a margin of ${formatBytes(DEVICE_MARGIN_BYTES)}`,
  };
}

function checkContext(model: ModelSpec, workload: Workload): void {
  const limit = model.maxContextTokens;
  if (limit !== undefined && workload.contextTokens > limit) {
    throw new OperatingError(
      'PROMPT_TOO_LONG',
      `the longest prompt and its new tokens need ${counted(workload.contextTokens, 'position')}, but ${model.architecture} ` +
        `has a context of ${limit}: shorten the prompt or lower --max_new_tokens`,
    );
  }
}
