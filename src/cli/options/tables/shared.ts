// Options of every command that runs a model: which one, on what, where weights rest, and how they stream.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

const MODEL = 'Model';
const PLACEMENT = 'Where weights rest';
const TUNING = 'Tuning';
const OUTPUT = 'Output';

/** An option of the commands that generate, or plan to. */
export const MAX_CONTEXT = {
  kind: 'value',
  group: TUNING,
  describe: 'tokens of a text, its prompt among them, that keys and values are to have room for',
  default: 'what the longest prompt and its new tokens need',
} as const satisfies OptionTable[string];

export const SHARED_OPTIONS = {
  name: {
    kind: 'value',
    short: 'm',
    names: 'model',
    group: MODEL,
    describe:
      'folder of a checkpoint, or a model of the hub such as bigscience/bloom-560m; with --dummy_weights a ' +
      'shape such as configs/models/llama-4b.json',
  },
  revision: { kind: 'value', group: MODEL, describe: 'branch, tag or commit on the hub', default: 'main' },
  dummy_weights: {
    kind: 'optional',
    names: 'folder',
    group: MODEL,
    describe: 'random weights for the shape, made once below this folder (default: the cache folder)',
  },
  dtype: {
    kind: 'value',
    choices: ['float16', 'bfloat16', 'float32', 'int8', 'int4', 'fp8', 'mxfp4'],
    group: MODEL,
    describe:
      'of random weights: what they are; of a checkpoint: int8, int4 or fp8 pack it into the cache folder at first ' +
      'use, as pack does, and it must have float16, bfloat16 or float32 already',
  },
  device: {
    kind: 'value',
    choices: ['auto', 'cpu', 'cuda'],
    group: MODEL,
    describe: 'auto (a GPU where there is one), cpu or cuda',
    default: 'auto',
  },
  num_gpus: {
    kind: 'value',
    group: MODEL,
    describe: 'GPUs to use; CUDA_VISIBLE_DEVICES says which',
    default: '1',
  },
  parallel: {
    kind: 'value',
    choices: ['streams', 'tensor', 'pipeline', 'auto'],
    group: MODEL,
    describe:
      'with several GPUs: each has prompts of its own and computes with whole layers (streams), each has a part of every ' +
      'layer and all compute one batch together (tensor), or each has some of the layers, through which as many batches ' +
      'follow each other (pipeline); auto takes the one that takes least time, and plan shows all of them',
    default: 'streams',
  },
  gather: {
    kind: 'value',
    choices: ['auto', 'peer', 'nccl', 'none'],
    group: TUNING,
    describe:
      'with several GPUs, how each comes by whole layers: it pulls a share over its own link and gathers the rest by ' +
      'copies between GPUs (peer) or by NCCL (nccl), or pulls all of it (none); auto measures peer and none at start',
    default: 'auto',
  },
  cpu_offload: { kind: 'flag', group: PLACEMENT, describe: 'all in DRAM' },
  nvme_offload_path: {
    kind: 'list',
    names: 'folder',
    group: PLACEMENT,
    describe:
      "all on the drive of this folder; read in place if it is the checkpoint's drive, else copied once. Given several times, every " +
      'layer is striped over the drives by what they yield, which is measured once unless it is said, as in /mnt/a:2.5GB/s',
  },
  dram_memory: {
    kind: 'value',
    group: PLACEMENT,
    describe: 'bound on all large memory, such as 2GiB (2G is the same, 2GB is 2 · 10⁹ bytes)',
    default: '85 % of what is available',
  },
  ds_config: {
    kind: 'value',
    names: 'file',
    group: PLACEMENT,
    describe: "a DeepSpeed configuration: what applies of it is applied, what doesn't is named; options win",
  },
  gpu_memory: {
    kind: 'value',
    group: PLACEMENT,
    describe: 'bound on what is taken of the GPU, such as 4GiB',
    default: 'what is free',
  },
  gpu_resident: {
    kind: 'value',
    group: PLACEMENT,
    describe:
      'layers that rest on the GPU: auto (as many as fit), a number of layers such as 12, or at most that many ' +
      'bytes, such as 8GiB',
    default: 'auto; 0 with --cpu_offload or --nvme_offload_path',
  },
  expert_slots: {
    kind: 'value',
    group: PLACEMENT,
    describe:
      'places on the GPU, or in DRAM for the CPU, for experts of a mixture, which come when they are chosen: auto (as many ' +
      'as fit, where that is faster), 0 (whole layers stream) or a number such as 512',
    default: 'auto',
  },
  cpu_compute: {
    kind: 'value',
    choices: ['auto', 'off', 'only'],
    group: PLACEMENT,
    describe:
      'what the CPU computes beside the GPU in passes of few tokens, of experts that lie in no slot and of layers that stream from ' +
      'DRAM: auto (so much that it ends as the link does), off (all come over the link) or only (none do once the slots are full)',
    default: 'auto',
  },
  kv_offload: {
    kind: 'flag',
    group: PLACEMENT,
    describe:
      'cached keys and values rest in DRAM, which is where they go by themselves when the GPU cannot hold them',
  },
  kv_dtype: {
    kind: 'value',
    choices: ['auto', 'float16', 'bfloat16', 'fp8', 'int8', 'int4'],
    group: PLACEMENT,
    describe:
      'how keys and values are stored wherever they rest: auto (as computed, which is exact), float16, bfloat16, fp8, int8 ' +
      'or int4, whose error score shows (score --kv_dtype int8)',
    default: 'auto',
  },
  compute_dtype: {
    kind: 'value',
    choices: ['auto', 'float32', 'bfloat16', 'float32_tiles', 'bfloat16_tiles'],
    group: TUNING,
    describe:
      'what products take in. auto: on a GPU the 16 bits of the weights, on the CPU float32. float32 rounds nothing on a GPU either, at half the speed or less; bfloat16 is for processors that multiply it (AVX512_BF16). float32_tiles and bfloat16_tiles are for those with AMX: prompts and batches are faster, one token at a time is not',
    default: 'auto',
  },
  threads: {
    kind: 'value',
    group: TUNING,
    describe: 'threads that compute, at most one per core',
    default: 'one per core, or what a quota leaves',
  },
  virtual_devices: {
    kind: 'value',
    group: TUNING,
    describe:
      'the CPU as so many devices with memory of their own, beside --dram_memory: to try --num_gpus without GPUs',
  },
  prefetch_layers: { kind: 'value', group: TUNING, describe: 'layers that are read ahead: buffers in DRAM' },
  micro_batch_size: { kind: 'value', group: TUNING, describe: 'sequences computed together, at most' },
  micro_batch_tokens: { kind: 'value', group: TUNING, describe: 'tokens computed together, at most' },
  io_engine: {
    kind: 'value',
    choices: ['auto', 'io_uring', 'threads'],
    group: TUNING,
    describe: 'auto, io_uring or threads',
    default: 'auto',
  },
  no_direct_io: { kind: 'flag', group: TUNING, describe: 'read through the page cache' },
  report: {
    kind: 'value',
    names: 'file',
    group: OUTPUT,
    describe: 'write the figures of the run to this file: as JSON, or drawn where it ends in .html',
  },
  trace: {
    kind: 'value',
    names: 'file',
    group: OUTPUT,
    describe: 'write a trace to this file, for ui.perfetto.dev',
  },
  log_level: {
    ...LOG_LEVEL,
    describe: `${LOG_LEVEL.describe}; debug adds what was planned, sizes, rates and times of the steps, and where an error comes from (as ZI_DEBUG=1)`,
  },
} as const satisfies OptionTable;
