// DeepSpeed's configuration files: what applies becomes settings, everything else is named in a warning with its reason.

import type { z } from 'zod';
import {
  elementCount,
  isDense,
  type ModelSpec,
  OperatingError,
  type Plan,
  type PlanOptions,
  vectorsOf,
} from '../../../offload/index.js';
import { isJsonObject, parseJsonObject, show } from '../../files/json-file.js';
import { APPLIED, type DsConfig, dsConfigSchema, INAPPLICABLE } from './ds-config-schema.js';

/** That so many GPUs compute every layer together, and the key that says it. */
export interface DsTensorParallel {
  readonly devices: number;
  readonly key: string;
}

/** What a file asks for; undefined where it says nothing, or "auto". */
export interface DsSettings {
  readonly path: string;
  readonly device: 'none' | 'cpu' | 'nvme' | undefined;
  /** With device `nvme`. */
  readonly nvmePath: string | undefined;
  readonly batchSize: number | undefined;
  readonly dtype: 'bfloat16' | 'float16' | undefined;
  readonly blockBytes: number | undefined;
  /** For all of DeepSpeed's threads together: each has a queue of its own there. */
  readonly queueDepth: number | undefined;
  readonly bufferCount: number | undefined;
  /** Sizes in elements become bytes when the model is known. */
  readonly bufferElements: number | undefined;
  readonly residentElements: number | undefined;
  readonly prefetchElements: number | undefined;
  readonly tensorParallel: DsTensorParallel | undefined;
  /** A sentence per key that cannot apply or is not known. */
  readonly warnings: readonly string[];
}

const BLOCK_ALIGNMENT_BYTES = 4096;
const MAX_QUEUE_DEPTH = 4096;

/** Throws BAD_CONFIG. @param path for messages */
export function parseDsConfig(text: string, path: string): DsSettings {
  const json = parseJsonObject(text, path, 'BAD_CONFIG');
  const parsed = dsConfigSchema().safeParse(json);
  if (!parsed.success) throw malformed(path, parsed.error, json);
  const { zero_optimization: zero, aio, bf16, fp16, train_micro_batch_size_per_gpu: batch } = parsed.data;
  const offload = zero?.offload_param;
  const warnings: string[] = [];
  checkPlacement(parsed.data, path, warnings);
  const device = offload?.device;
  const streams = device === 'nvme';
  const settings = {
    path,
    device,
    nvmePath: streams ? (offload?.nvme_path ?? undefined) : undefined,
    batchSize: given(batch),
    dtype: readType(given(bf16?.enabled), given(fp16?.enabled), path),
    blockBytes: readBlockBytes(given(aio?.block_size), path),
    queueDepth: readQueueDepth(aio, warnings),
    bufferCount: streams ? given(offload?.buffer_count) : undefined,
    bufferElements: streams ? given(offload?.buffer_size) : undefined,
    residentElements: streams ? given(offload?.max_in_cpu) : undefined,
    prefetchElements: streams ? given(zero?.stage3_prefetch_bucket_size) : undefined,
    tensorParallel: readTensorParallel(parsed.data, warnings),
  };
  for (const { key, value } of leaves(json)) {
    if (APPLIED.includes(key) || value === 'auto') continue;
    warnings.push(warningFor(key));
  }
  return { ...settings, warnings: warnings.map((warning) => `${path}: ${warning}`) };
}

function given<T>(value: T | 'auto' | undefined): T | undefined {
  return value === 'auto' ? undefined : value;
}

function checkPlacement({ zero_optimization: zero }: DsConfig, path: string, warnings: string[]): void {
  const offload = zero?.offload_param;
  const stage = given(zero?.stage);
  if (stage !== undefined && stage !== 3) {
    warnings.push(
      `zero_optimization.stage is ${stage}: weights stream whatever the stage, so it changes nothing`,
    );
  }
  if (offload?.device === 'nvme' && !offload.nvme_path) {
    throw new OperatingError(
      'BAD_CONFIG',
      `${path}: zero_optimization.offload_param.device is "nvme", but nvme_path is missing: add the folder on that drive`,
    );
  }
  if (offload?.device === 'nvme') return;
  const unused = (['nvme_path', 'buffer_count', 'buffer_size', 'max_in_cpu'] as const).filter(
    (key) => offload?.[key] !== undefined && offload[key] !== null && offload[key] !== 'auto',
  );
  for (const key of unused) {
    warnings.push(`zero_optimization.offload_param.${key} has no effect: device is not "nvme"`);
  }
}

function readType(bf16: boolean | undefined, fp16: boolean | undefined, path: string): DsSettings['dtype'] {
  if (bf16 && fp16) {
    throw new OperatingError('BAD_CONFIG', `${path}: bf16 and fp16 are both enabled: enable one of them`);
  }
  return bf16 ? 'bfloat16' : fp16 ? 'float16' : undefined;
}

/** DeepSpeed-Inference has two names for it, the older of which its newer versions still take. */
function readTensorParallel(
  { tensor_parallel: own, mp_size: older }: DsConfig,
  warnings: string[],
): DsTensorParallel | undefined {
  const devices = given(own?.enabled) === false ? undefined : given(own?.tp_size);
  const olderSize = given(older);
  if (devices !== undefined && olderSize !== undefined && devices !== olderSize) {
    warnings.push(
      `mp_size (${olderSize}) is the older name of tensor_parallel.tp_size (${devices}), which is used`,
    );
  }
  if (devices !== undefined) return { devices, key: 'tensor_parallel.tp_size' };
  return olderSize === undefined ? undefined : { devices: olderSize, key: 'mp_size' };
}

function readBlockBytes(bytes: number | undefined, path: string): number | undefined {
  if (bytes === undefined || bytes % BLOCK_ALIGNMENT_BYTES === 0) return bytes;
  throw new OperatingError(
    'BAD_CONFIG',
    `${path}: aio.block_size is ${bytes}: give a multiple of ${BLOCK_ALIGNMENT_BYTES} bytes, which drives need`,
  );
}

/** DeepSpeed gives each of its threads a queue of `queue_depth`; one thread can keep as many reads in flight. */
function readQueueDepth(aio: DsConfig['aio'], warnings: string[]): number | undefined {
  const [parallelism, threads] = [given(aio?.intra_op_parallelism), given(aio?.thread_count)];
  if (parallelism !== undefined && threads !== undefined && parallelism !== threads) {
    warnings.push(
      `aio.thread_count (${threads}) is the older name of aio.intra_op_parallelism (${parallelism}), which is used`,
    );
  }
  const depth = given(aio?.queue_depth);
  const count = parallelism ?? threads;
  if (depth === undefined && count === undefined) return undefined;
  // DeepSpeed's own default, which its users' parallelism is meant to multiply.
  const wanted = (depth ?? 8) * (count ?? 1);
  if (wanted > MAX_QUEUE_DEPTH) {
    warnings.push(`aio asks for ${wanted} reads in flight: ${MAX_QUEUE_DEPTH} are used, which is the most`);
  }
  return Math.min(wanted, MAX_QUEUE_DEPTH);
}

/** Paths of all values, down to objects that are known or unknown as a whole. */
function leaves(value: Readonly<Record<string, unknown>>, above = ''): { key: string; value: unknown }[] {
  return Object.entries(value).flatMap(([name, inner]) => {
    const key = `${above}${name}`;
    return isJsonObject(inner) && isContainer(key) ? leaves(inner, `${key}.`) : [{ key, value: inner }];
  });
}

/** There is something to say of the keys inside. */
function isContainer(key: string): boolean {
  return [...APPLIED, ...Object.keys(INAPPLICABLE)].some((known) => known.startsWith(`${key}.`));
}

function warningFor(key: string): string {
  const parts = key.split('.');
  for (let length = parts.length; length > 0; length--) {
    const why = INAPPLICABLE[parts.slice(0, length).join('.')];
    if (why !== undefined) return `${key} cannot apply: ${why}`;
  }
  return `${key} is not a key that is known: it is ignored`;
}

function malformed(path: string, error: z.ZodError, json: unknown): OperatingError {
  const [issue] = error.issues;
  const keys = (issue?.path ?? []).map(String);
  const value = keys.reduce<unknown>((inner, key) => (isJsonObject(inner) ? inner[key] : undefined), json);
  const wanted =
    WANTED[keys.at(-1) ?? ''] ??
    (issue?.code === 'invalid_type'
      ? `of type ${issue.expected}`
      : 'a whole number of at least 1, or "auto"');
  return new OperatingError(
    'BAD_CONFIG',
    `${path}: ${keys.join('.')} is ${show(value)}: it must be ${wanted}`,
  );
}

const FLAG = 'true, false or "auto"';
const OBJECT = 'an object';
const AMOUNT = 'a whole number of at least 0, or "auto"';
const WANTED: Readonly<Record<string, string>> = {
  device: '"none", "cpu" or "nvme"',
  nvme_path: 'a folder',
  enabled: FLAG,
  pin_memory: FLAG,
  single_submit: FLAG,
  overlap_events: FLAG,
  use_gds: FLAG,
  zero_optimization: OBJECT,
  offload_param: OBJECT,
  aio: OBJECT,
  tensor_parallel: OBJECT,
  bf16: OBJECT,
  fp16: OBJECT,
  stage: AMOUNT,
  max_in_cpu: AMOUNT,
  stage3_prefetch_bucket_size: AMOUNT,
};

/** Elements of a layer, and bytes per element: what sizes in elements mean for this model. */
function largestLayer({ blocks }: ModelSpec): { elements: number; bytes: number } {
  let largest = { elements: 1, bytes: 2 };
  for (const block of blocks) {
    const { tensors, matrices } = block;
    const bytes = tensors.reduce((sum, { extent }) => sum + extent.sizeBytes, 0);
    if (bytes <= largest.bytes) continue;
    const elements = [...matrices, ...vectorsOf(block)].reduce(
      (sum, { shape }) => sum + elementCount(shape),
      0,
    );
    largest = { elements, bytes };
  }
  return largest;
}

/** The planner's options that need the model's sizes. */
export function dsPlanOptions(settings: DsSettings, model: ModelSpec): Partial<PlanOptions> {
  const { bufferCount, prefetchElements, residentElements } = settings;
  const { elements, bytes } = largestLayer(model);
  // The layer that computes has a buffer as well.
  const ahead = prefetchElements === undefined ? undefined : 1 + Math.ceil(prefetchElements / elements);
  const hostWindowLayers = bufferCount ?? ahead;
  return {
    ...(hostWindowLayers === undefined
      ? {}
      : { hostWindowLayers: Math.min(hostWindowLayers, model.blocks.length + 1) }),
    ...(residentElements === undefined
      ? {}
      : { residentBytes: Math.floor((residentElements * bytes) / elements) }),
  };
}

/** The type of real weights is what it is. */
export function dsModelWarnings({ path, dtype }: DsSettings, { blocks }: ModelSpec): string[] {
  if (dtype === undefined) return [];
  const [key, wanted] = dtype === 'float16' ? ['fp16', 'f16'] : ['bf16', 'bf16'];
  const other = blocks
    .flatMap(({ matrices }) => matrices)
    .find(({ format }) => format.type !== wanted)?.format;
  return other
    ? [
        `${path}: ${key}.enabled cannot apply: the checkpoint stores ${isDense(other) ? other.type : other.name}, and weights are used as stored`,
      ]
    : [];
}

/** What is to be said once the plan is known: buffers hold whole layers, whatever their size was meant to be. */
export function dsPlanWarnings({ path, bufferElements }: DsSettings, model: ModelSpec, plan: Plan): string[] {
  if (bufferElements === undefined || plan.hostBuffers.count === 0) return [];
  const { elements, bytes } = largestLayer(model);
  const wantedBytes = Math.floor((bufferElements * bytes) / elements);
  if (wantedBytes >= plan.hostBuffers.sizeBytes) return [];
  return [
    `${path}: zero_optimization.offload_param.buffer_size is ${bufferElements} elements, ${wantedBytes} bytes in the type ` +
      `of the weights; a buffer holds a whole layer here, so it has ${plan.hostBuffers.sizeBytes} bytes`,
  ];
}
