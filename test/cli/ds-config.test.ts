// DeepSpeed's files: what applies is applied, every other key is named once with its reason, options win.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { makePlan } from '../../offload/index.js';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { dsPlanOptions, dsPlanWarnings, parseDsConfig } from '../../src/cli/options/ds-config.js';
import { planOptionsFor } from '../../src/cli/options/ds-config-options.js';
import { readGenerateOptions } from '../../src/cli/options/generate-options.js';
import { shapeModel } from '../../src/engine/shape.js';
import { tempFolder } from '../helpers/temp-folder.js';

const PRESETS = fileURLToPath(new URL('../../configs/ds', import.meta.url));
const SHAPE = fileURLToPath(new URL('../../configs/models/llama-0.85b.json', import.meta.url));
const { model } = shapeModel(JSON.parse(readFileSync(SHAPE, 'utf8')), SHAPE);

const NVME = { device: 'nvme', nvme_path: '/drive' };

function parse(config: unknown) {
  return parseDsConfig(JSON.stringify(config), 'ds.json');
}

/** The file and then the words, as the command line takes them. */
function options(config: unknown, ...words: string[]) {
  const path = join(tempFolder(), 'ds.json');
  writeFileSync(path, JSON.stringify(config));
  const parsed = parseCommandLine(['--name', 'm', '--ds_config', path, ...words]);
  if (parsed.kind !== 'run') throw new Error('help was printed');
  return readGenerateOptions(parsed.options);
}

describe('keys that apply', () => {
  it('places weights', () => {
    expect(options({ zero_optimization: { offload_param: { device: 'cpu' } } })).toMatchObject({
      offload: 'dram',
      warnings: [],
    });
    expect(options({ zero_optimization: { offload_param: NVME } })).toMatchObject({
      offload: 'nvme',
      offloadDrives: [{ folder: '/drive' }],
    });
    expect(options({ zero_optimization: { offload_param: { ...NVME, max_in_cpu: 1e9 } } })).toMatchObject({
      offload: 'auto',
      offloadDrives: [{ folder: '/drive' }],
    });
    expect(options({ zero_optimization: { offload_param: { device: 'none' } } }).offload).toBe('auto');
  });

  it('sets up reads: one queue as deep as those of all threads together', () => {
    const aio = { block_size: 2 ** 20, queue_depth: 8, intra_op_parallelism: 4 };
    expect(options({ aio }).cpu.io).toMatchObject({ chunkBytes: 2 ** 20, queueDepth: 32 });
    expect(parse({ aio: { queue_depth: 8, thread_count: 2 } }).queueDepth).toBe(16);
    expect(parse({ aio: { queue_depth: 'auto' } }).queueDepth).toBeUndefined();
  });

  it('takes the batch', () => {
    expect(options({ train_micro_batch_size_per_gpu: 16 }).batchSize).toBe(16);
    expect(options({ train_micro_batch_size_per_gpu: 'auto' }).batchSize).toBe(1);
  });

  it('has so many devices compute together as DeepSpeed-Inference does, unless an option says otherwise', () => {
    const file = { tensor_parallel: { tp_size: 2, mpu: null }, replace_with_kernel_inject: true };
    const virtual = ['--virtual_devices', '2'] as const;
    const read = options(file, ...virtual);
    expect(read).toMatchObject({ parallel: 'tensor', deviceCount: 2, batchCount: 1 });
    expect(read.warnings).toEqual([
      expect.stringContaining('tensor_parallel.mpu cannot apply'),
      expect.stringContaining('replace_with_kernel_inject cannot apply'),
    ]);
    expect(options({ mp_size: 2 }, ...virtual)).toMatchObject({ parallel: 'tensor', warnings: [] });
    expect(options({ mp_size: 2 }, '--device', 'cpu')).toMatchObject({
      ...{ parallel: 'streams', deviceCount: 1 },
      warnings: [expect.stringContaining('mp_size is 2, but --device is given and wins')],
    });
    const overruled = options(file, ...virtual, '--parallel', 'pipeline');
    expect(overruled.parallel).toBe('pipeline');
    expect(overruled.warnings.join('\n')).toContain('tp_size is 2, but --parallel is given and wins');
    for (const off of [{ enabled: false, tp_size: 2 }, { tp_size: 1 }, { tp_size: 'auto' }]) {
      expect(options({ tensor_parallel: off }, '--device', 'cpu')).toMatchObject({
        ...{ parallel: 'streams', deviceCount: 1, warnings: [] },
      });
    }
    expect(() => options({ tensor_parallel: { tp_size: 999 } })).toThrow(
      /^(tensor_parallel.tp_size of --ds_config is 999, but )/,
    );
    expect(() => parse({ tensor_parallel: { tp_size: 0 } })).toThrow(
      /tp_size is 0: it must be a whole number/,
    );
    expect(parse({ mp_size: 4, tensor_parallel: { tp_size: 2 } }).warnings).toEqual([
      'ds.json: mp_size (4) is the older name of tensor_parallel.tp_size (2), which is used',
    ]);
  });

  it('counts sizes in elements of the model’s type', () => {
    const elements = 852_559_872;
    const half = parse({ zero_optimization: { offload_param: { ...NVME, max_in_cpu: elements / 2 } } });
    expect(dsPlanOptions(half, model).residentBytes).toBe(elements);
    const ahead = parse({ zero_optimization: { offload_param: NVME, stage3_prefetch_bucket_size: 1e8 } });
    // A block has 45 million elements: three of them are 100 million, and one computes.
    expect(dsPlanOptions(ahead, model).hostWindowLayers).toBe(4);
    const counted = parse({ zero_optimization: { offload_param: { ...NVME, buffer_count: 5 } } });
    expect(dsPlanOptions(counted, model).hostWindowLayers).toBe(5);
  });

  it('lets max_in_cpu elements rest in DRAM, and no more', () => {
    const read = options({ zero_optimization: { offload_param: { ...NVME, max_in_cpu: 2e8 } } });
    const plan = makePlan(
      model,
      { sequences: 1, contextTokens: 64, promptTokens: 32, output: 'tokens' },
      {
        offload: read.offload,
        dramBudgetBytes: 2 ** 33,
        dramBudgetName: 'test',
        deviceCount: 1,
        computesInPlace: true,
        ...planOptionsFor(read, model),
      },
    );
    const resident = plan.layers.filter(({ tier }) => tier === 'dram');
    const bytes = resident.reduce((sum, { layout }) => sum + layout.host.sizeBytes, 0);
    expect(bytes).toBeGreaterThan(0);
    expect(bytes).toBeLessThanOrEqual(4e8);
  });

  it('says that a buffer holds a layer where buffer_size is smaller', () => {
    const settings = parse({ zero_optimization: { offload_param: { ...NVME, buffer_size: 1e6 } } });
    const plan = makePlan(
      model,
      { sequences: 1, contextTokens: 64, promptTokens: 32, output: 'tokens' },
      {
        offload: 'nvme',
        dramBudgetBytes: 2 ** 33,
        dramBudgetName: 'test',
        deviceCount: 1,
        computesInPlace: true,
      },
    );
    expect(dsPlanWarnings(settings, model, plan)).toEqual([
      expect.stringMatching(/buffer_size is 1000000 elements, 2000000 bytes .* whole layer/),
    ]);
  });
});

describe('keys that cannot apply', () => {
  it('are named once each, with a reason', () => {
    const { warnings } = parse({
      optimizer: { type: 'Adam', params: { lr: 1, betas: [0.9, 0.95] } },
      fp16: { enabled: true, loss_scale: 0 },
      aio: { use_gds: true },
      zero_optimization: { stage: 3, offload_param: { device: 'cpu', pin_memory: true }, overlap_comm: true },
      weight_quantization: { quantized_initialization: { num_bits: 4 } },
    });
    expect(warnings).toHaveLength(6);
    for (const key of ['optimizer', 'fp16.loss_scale', 'aio.use_gds', 'weight_quantization'])
      expect(warnings.filter((line) => line.startsWith(`ds.json: ${key} cannot apply: `))).toHaveLength(1);
  });

  it('and keys that nobody knows are named', () => {
    const { warnings } = parse({ zero_optimisation: { stage: 3 }, aio: { depth: 4 } });
    expect(warnings).toEqual([
      'ds.json: zero_optimisation is not a key that is known: it is ignored',
      'ds.json: aio.depth is not a key that is known: it is ignored',
    ]);
  });

  it('are silent when "auto"', () => {
    expect(parse({ gradient_clipping: 'auto', aio: { single_submit: 'auto' } }).warnings).toEqual([]);
  });

  it('and what has no effect beside the others is said', () => {
    const { warnings } = parse({
      zero_optimization: { stage: 2, offload_param: { device: 'cpu', buffer_count: 5 } },
    });
    expect(warnings).toEqual([
      expect.stringContaining('zero_optimization.stage is 2'),
      expect.stringContaining('buffer_count has no effect: device is not "nvme"'),
    ]);
  });
});

describe('options win', () => {
  it('and it is said', () => {
    const config = {
      train_micro_batch_size_per_gpu: 4,
      zero_optimization: { offload_param: { ...NVME, buffer_count: 5 } },
    };
    const read = options(config, '--cpu_offload', '--batch_size', '2', '--prefetch_layers', '3');
    expect(read).toMatchObject({ offload: 'dram', offloadDrives: [], batchSize: 2 });
    expect(planOptionsFor(read, model).hostWindowLayers).toBe(3);
    expect(read.warnings).toEqual([
      expect.stringContaining('device is "nvme", but --cpu_offload is given and wins'),
      expect.stringContaining('train_micro_batch_size_per_gpu is 4, but --batch_size is given and wins'),
      expect.stringContaining('buffer_count is 5, but --prefetch_layers is given and wins'),
    ]);
  });

  it('without a word where both say the same', () => {
    const config = {
      zero_optimization: { offload_param: { device: 'cpu' } },
      train_micro_batch_size_per_gpu: 2,
    };
    expect(options(config, '--cpu_offload', '--batch_size', '2').warnings).toEqual([]);
  });
});

describe('bad files', () => {
  const BAD: readonly (readonly [unknown, RegExp])[] = [
    [
      { zero_optimization: { offload_param: { device: 'disk' } } },
      /device is "disk": it must be "none", "cpu" or "nvme"/,
    ],
    [{ zero_optimization: { offload_param: { device: 'nvme' } } }, /nvme_path is missing/],
    [{ aio: { block_size: 1000 } }, /aio.block_size is 1000: give a multiple of 4096/],
    [{ aio: { queue_depth: 0 } }, /aio.queue_depth is 0: it must be a whole number of at least 1/],
    [{ train_micro_batch_size_per_gpu: 'many' }, /train_micro_batch_size_per_gpu is "many"/],
    [{ bf16: { enabled: true }, fp16: { enabled: true } }, /bf16 and fp16 are both enabled/],
    [{ bf16: true }, /bf16 is true: it must be an object/],
    [[], /not an object/],
  ];

  it.each(BAD)('%j', (config, message) => {
    expect(() => parse(config)).toThrow(message);
  });

  it('and files that are none', () => {
    expect(() => parseDsConfig('{', 'ds.json')).toThrow(/ds.json is not JSON/);
    expect(() => parseCommandLineWith('/nowhere.json')).toThrow(
      /--ds_config is \/nowhere.json, which cannot be read/,
    );
  });
});

function parseCommandLineWith(path: string) {
  const parsed = parseCommandLine(['--name', 'm', '--ds_config', path]);
  if (parsed.kind !== 'run') throw new Error('help was printed');
  return readGenerateOptions(parsed.options);
}

describe('presets', () => {
  it.each(readdirSync(PRESETS))('configs/ds/%s applies without a warning', (name) => {
    const { warnings } = parseDsConfig(readFileSync(join(PRESETS, name), 'utf8'), name);
    expect(warnings).toEqual([]);
  });
});
