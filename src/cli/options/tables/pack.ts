// Options of `pack`.

import { SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const PACK = 'Pack';
const { name, revision, device, dram_memory, gpu_memory, threads, io_engine, no_direct_io, log_level } =
  SHARED_OPTIONS;

/** What weights become. */
export const PACKED_TYPES = ['int8', 'int4', 'fp8'] as const;

export const PACK_OPTIONS = {
  name: { ...name, describe: 'folder of a checkpoint of float weights, or a model of the hub' },
  revision,
  output: {
    kind: 'value',
    short: 'o',
    names: 'folder',
    group: PACK,
    describe: 'folder for the store, which must not exist or be empty',
  },
  weights: {
    kind: 'value',
    choices: PACKED_TYPES,
    group: PACK,
    describe:
      'int8, int4, or fp8 (e4m3 with a scale per row): what matrices of blocks become; all else stays',
  },
  group_size: {
    kind: 'value',
    choices: ['channel'],
    group: PACK,
    describe: 'inputs that share a scale with int8 and int4: a multiple of 8, or channel for all of a row',
    default: '64, or less where that does not divide all matrices',
  },
  gpus: {
    kind: 'value',
    group: PACK,
    describe: 'spread each layer over so many files of about equal size, for devices that read disjoint ones',
    default: '1',
  },
  text_file: {
    kind: 'value',
    names: 'file',
    group: PACK,
    describe: 'UTF-8 text to score before and after, to see what was lost',
  },
  json: { kind: 'flag', group: PACK, describe: 'print what was written and lost as JSON' },
  device: { ...device, describe: 'what scores --text_file' },
  dram_memory,
  gpu_memory,
  threads,
  io_engine,
  no_direct_io,
  log_level,
} as const satisfies OptionTable;

export const PACK_EXAMPLES = [
  ['$0 pack --name FOLDER --output FOLDER-int4 --weights int4', 'a quarter of the bytes of bfloat16'],
  [
    '$0 pack --name bigscience/bloom-560m --output bloom-int8 --weights int8 --text_file book.txt',
    'with the likelihood of a text before and after',
  ],
  ['$0 pack --name FOLDER --output /mnt/nvme/fp8 --weights fp8 --gpus 4', 'each layer in four files'],
] as const;
