// Puts the parts together: checkpoint and tokenizer → model → plan → backend → executor. Opening reads no layer.

import {
  type Backend,
  type BufferPlan,
  CpuBackend,
  type CpuBackendOptions,
  CudaBackend,
  type CudaBackendOptions,
  type CudaStatus,
  checkInstructions,
  counted,
  cudaStatus,
  decideTransfer,
  defaultTransfer,
  detectHardware,
  Executor,
  type FileState,
  formatBytes,
  type GatherWish,
  type LoadAhead,
  MiB,
  type ModelSpec,
  makePlan,
  type Offload,
  OperatingError,
  type Plan,
  type PlanOptions,
  type Tier,
  Trace,
  type Transfer,
  type Workload,
} from '../../offload/index.js';
import { type Checkpoint, openWeights, readConfiguration } from '../checkpoint/checkpoint.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import { checkMachineHolds } from './budget.js';
import { checkpointWarnings } from './checkpoint-warnings.js';
import type { EngineRequest } from './request.js';
import { Scheduler } from './scheduler.js';
import type { Submission } from './submission.js';

export interface OpenedModel {
  readonly checkpoint: Checkpoint;
  readonly model: ModelSpec;
  /** A sentence per thing that is odd about the checkpoint; whoever runs the model says them. */
  readonly warnings: readonly string[];
}

/** Reads configuration and headers only. Throws an OperatingError for anything that is missing or unsupported. */
export async function openModel(folder: string): Promise<OpenedModel> {
  const configuration = await readConfiguration(folder);
  // What cannot run is refused before its weight files are opened.
  const architecture = buildArchitecture(configuration.config, configuration.path);
  const checkpoint = await openWeights(configuration);
  const bound = bindModel(architecture, checkpoint);
  const warnings = await checkpointWarnings(checkpoint, bound, configuration.names);
  return { checkpoint, model: bound.model, warnings };
}

export type DeviceKind = 'cpu' | 'cuda';

export interface EngineOptions {
  /** Default: the CPU. */
  readonly device?: DeviceKind;
  readonly offload: Offload;
  /** Undefined: most of what is available on this machine. */
  readonly dramBudgetBytes?: number;
  /** What was available when something was decided by it; default: what is available now. */
  readonly dramAvailableBytes?: number;
  readonly workload: Workload;
  readonly plan?: Partial<PlanOptions>;
  readonly cpu?: CpuBackendOptions;
  readonly cuda?: CudaBackendOptions;
  /** What may be taken of each GPU; undefined: most of what is free. */
  readonly deviceBudgetBytes?: number;
  /** How layers reach several devices, unless `plan.transfer` says it; default `auto`: as is measured to be faster. */
  readonly gather?: GatherWish;
  /** Keep every span for a trace file. */
  readonly keepSpans?: boolean;
  /** Weight files to read instead of the checkpoint's own: a copy on another drive, same content and order. */
  readonly files?: readonly string[];
  /** What `files` were when their content was made sure of. */
  readonly fileStates?: readonly FileState[];
}

/** Share of the available memory that is taken when no budget is given; the rest stays with the system. */
export const DRAM_SHARE = 0.85;

export class Engine {
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly backend: Backend;
  readonly executor: Executor;
  readonly trace: Trace;
  #scheduler: Scheduler | undefined;

  private constructor(executor: Executor, backend: Backend, trace: Trace) {
    this.model = executor.model;
    this.plan = executor.plan;
    this.backend = backend;
    this.executor = executor;
    this.trace = trace;
  }

  /**
   * Plans, allocates and opens the files. Rejects with an OperatingError and leaves nothing behind.
   * @param ahead of this model and the same files, with offload `dram` and no layers at rest on devices; closed with
   *   the engine once the plan is made
   */
  static async open(
    { checkpoint, model }: OpenedModel,
    options: EngineOptions,
    ahead?: LoadAhead,
  ): Promise<Engine> {
    const transfer = await transferFor(options);
    const plan = planFor(model, { ...options, plan: { ...options.plan, transfer } });
    checkMachineHolds(plan, options.device === 'cuda' ? 0 : (options.cpu?.virtualDevices ?? 0));
    const trace = new Trace(options.keepSpans ?? false);
    const backend = openBackend(options, plan.transfer.by === 'nccl', ahead?.host);
    try {
      const paths = options.files ?? checkpoint.files;
      const loaded = ahead?.handOver(backend);
      const executor = await Executor.create({
        model,
        plan,
        backend,
        paths,
        trace,
        loaded,
      });
      backend.checkFiles(expectedFiles(checkpoint, options));
      return new Engine(executor, backend, trace);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /**
   * Has a request computed beside all others; it begins in the next pass that has room for it. From then on the executor is
   * the scheduler's alone, until the engine is closed.
   */
  submit(request: EngineRequest): Submission {
    this.#scheduler ??= new Scheduler(this.executor);
    return this.#scheduler.submit(request);
  }

  /** Resolves when no submitted request is open. Rejects with what made all of them fail. */
  async whenIdle(): Promise<void> {
    await this.#scheduler?.whenIdle();
  }

  /** Stops all work and cancels what was submitted; safe at any time and more than once. */
  async close(): Promise<void> {
    // Requests that come from now on are told that it is closed.
    this.#scheduler ??= new Scheduler(this.executor);
    const closed = this.#scheduler.close();
    await this.backend.close();
    await closed;
  }
}

/** By path, what the files must be that were opened. */
function expectedFiles(checkpoint: Checkpoint, options: EngineOptions): ReadonlyMap<string, FileState> {
  const { files, fileStates = [] } =
    options.files && options.files !== checkpoint.files ? options : checkpoint;
  const states = new Map<string, FileState>();
  for (const [index, path] of (files ?? []).entries()) {
    const state = fileStates[index];
    if (state) states.set(path, state);
  }
  return states;
}

/** The GPU where there is one that can be used. */
export function chooseDevice({ problem }: Pick<CudaStatus, 'problem'> = cudaStatus()): DeviceKind {
  return problem === '' ? 'cuda' : 'cpu';
}

function openBackend(
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
export async function transferFor(options: EngineOptions): Promise<Transfer> {
  const { device, cpu, cuda, gather = 'auto', plan } = options;
  if (plan?.transfer) return plan.transfer;
  const count = device === 'cuda' ? (cuda?.devices?.length ?? 1) : (cpu?.virtualDevices ?? 0);
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
  'deviceCount' | 'computesInPlace' | 'cuda' | 'deviceBudgetBytes' | 'deviceBudgetName'
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
  const free = Math.min(...used.map((index) => devices[index]?.freeBytes ?? 0));
  const named = deviceBudgetBytes !== undefined && deviceBudgetBytes <= free;
  return {
    deviceCount: used.length,
    computesInPlace: false,
    cuda: true,
    deviceBudgetBytes: named ? deviceBudgetBytes : Math.max(0, free - DEVICE_MARGIN_BYTES),
    deviceBudgetName: named
      ? '--gpu_memory'
      : `what is free on the GPU less a margin of ${formatBytes(DEVICE_MARGIN_BYTES)}`,
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

/** For logs: `12 of 32 layers rest in DRAM, 20 stream from the drive through 4 buffers of 436 MiB`. */
export function describePlacement(plan: Plan): string {
  const kv = plan.kvBuffers.count > 0 ? '; keys and values rest in DRAM' : '';
  return `${describeLayers(plan)}${kv}${describeTransfer(plan)}`;
}

/** Says nothing of one device, and of devices in place. */
function describeTransfer({ deviceCount, deviceBuffers, transfer }: Plan): string {
  return deviceCount > 1 && deviceBuffers.count > 0 ? `; ${transfer.reason}` : '';
}

function describeLayers({ layers, hostBuffers, deviceBuffers }: Plan): string {
  const count = (wanted: Tier) => layers.filter(({ tier }) => tier === wanted).length;
  const [onDevice, inDram, onDrive] = [count('gpu'), count('dram'), count('nvme')];
  const all = layers.length === 1 ? 'the only layer rests' : `all ${layers.length} layers rest`;
  const some = (number: number) =>
    `${number} of ${counted(layers.length, 'layer')} ${number === 1 ? 'rests' : 'rest'}`;
  if (onDevice === layers.length) return `${all} on the device: nothing streams`;
  const through = ({ count: buffers, sizeBytes }: BufferPlan) =>
    `through ${counted(buffers, 'buffer')} of ${formatBytes(sizeBytes)}`;
  const toDevice =
    deviceBuffers.count > 0
      ? `${onDrive > 0 ? 'and on' : 'and stream'} to the device ${through(deviceBuffers)}`
      : '';
  const parts: string[] = [];
  if (onDevice > 0) parts.push(`${some(onDevice)} on the device`);
  if (onDrive === 0) {
    const resting = onDevice > 0 ? `${inDram} in DRAM` : `${all} in DRAM`;
    parts.push([resting, toDevice].filter((part) => part !== '').join(' '));
    return parts.join(', ');
  }
  parts.push(onDevice > 0 ? `${inDram} in DRAM` : `${some(inDram)} in DRAM`);
  const drive = `${onDrive} stream from the drive ${through(hostBuffers)}`;
  return [...parts, [drive, toDevice].filter((part) => part !== '').join(' ')].join(', ');
}
