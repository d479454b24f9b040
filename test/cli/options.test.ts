// What is wrong with a command line is said in one sentence; what is right becomes typed options.

import { describe, expect, it } from 'vitest';
import { OperatingError } from '../../offload/index.js';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { helpText } from '../../src/cli/help.js';
import { readLogLevel } from '../../src/cli/log-levels.js';
import { readGenerateOptions } from '../../src/cli/options/generate-options.js';
import { idleOptions } from '../../src/cli/options/idle-options.js';
import { OptionReader } from '../../src/cli/options/option-reader.js';
import { readPackOptions } from '../../src/cli/options/pack-options.js';
import { readPlanCommandOptions } from '../../src/cli/options/plan-options.js';
import { readScoreOptions } from '../../src/cli/options/score-options.js';
import { tooFewGpus } from '../../src/cli/options/shared-options.js';
import { COMMANDS, type CommandName, SHORT_NAMES } from '../../src/cli/options/tables/commands.js';
import { runCli } from '../helpers/cli.js';

/** The options of the command that the words name. */
function read(words: readonly string[]) {
  const parsed = parseCommandLine(words);
  if (parsed.kind !== 'run') throw new Error('help was printed');
  readLogLevel(parsed.options);
  const { command, options } = parsed;
  if (command === 'pack') return { command, ...readPackOptions(options) };
  return command === 'score'
    ? { command, ...readScoreOptions(options) }
    : { command, ...readGenerateOptions(options) };
}

function generateOptions(...words: string[]) {
  const parsed = parseCommandLine(['--name', 'm', ...words]);
  if (parsed.kind !== 'run') throw new Error('help was printed');
  return readGenerateOptions(parsed.options);
}

const BAD: readonly (readonly [readonly string[], string, RegExp])[] = [
  [[], 'BAD_OPTION', /--name is missing/],
  [['--name'], 'BAD_OPTION', /--name needs a value/],
  [['--name='], 'BAD_OPTION', /--name is empty/],
  [['--name', 'm', '--name', 'n'], 'BAD_OPTION', /--name is given 2 times/],
  [['--name', 'm', '--batch_size', '0'], 'BAD_OPTION', /--batch_size is '0': .* from 1 to 65536/],
  [['--name', 'm', '--batch_size', '1e9'], 'BAD_OPTION', /--batch_size is '1e9'/],
  [['--name', 'm', '--batch_size', 'two'], 'BAD_OPTION', /--batch_size is 'two'/],
  [['--name', 'm', '--batch_size', '-1'], 'BAD_OPTION', /--batch_size is '-1'/],
  [['--name', 'm', '--batch_size', '2', '--batch-size=2'], 'BAD_OPTION', /--batch_size is given 2 times/],
  [['--name', 'm', '--max_new_tokens', '0'], 'BAD_OPTION', /--max_new_tokens is '0'/],
  [['--name', 'm', '--dram_memory', 'lots'], 'BAD_OPTION', /--dram_memory is 'lots'/],
  [['--name', 'm', '--dram_memory', '0'], 'BAD_OPTION', /--dram_memory is '0'/],
  [['--name', 'm', '--dram_memory', '-4GiB'], 'BAD_OPTION', /--dram_memory/],
  [['--name', 'm', '--dram_memory', '4 Gi'], 'BAD_OPTION', /--dram_memory is '4 Gi': write a size such as/],
  [['--name', 'm', '--dram_memory', '1e99GiB'], 'BAD_OPTION', /--dram_memory is '1e99GiB'/],
  [['--name', 'm', '--gpu_memory', '99999999999999TiB'], 'BAD_OPTION', /--gpu_memory is/],
  [
    ['--name', 's', '--dummy_weights', '--prompt', 'x'],
    'BAD_OPTION',
    /--prompt is given, but a shape .* no tokenizer/,
  ],
  [
    ['--name', 's', '--dummy_weights', '--chat'],
    'BAD_OPTION',
    /--chat is given, but a shape .* no tokenizer/,
  ],
  [
    ['score', '--name', 's', '--dummy_weights', '--text_file', 'f'],
    'BAD_OPTION',
    /no tokenizer: give --token_ids/,
  ],
  [['--name', 'm', '--threads', '0'], 'BAD_OPTION', /--threads is '0'/],
  [['--name', 'm', '--compute_dtype', 'float16'], 'BAD_OPTION', /--compute_dtype is 'float16'/],
  [['--name', 'm', '--io_engine', 'aio'], 'BAD_OPTION', /--io_engine is 'aio': give one of auto, io_uring/],
  [
    ['--name', 'm', '--gather', 'ring'],
    'BAD_OPTION',
    /--gather is 'ring': give one of auto, peer, nccl, none/,
  ],
  [
    ['--name', 'm', '--device', 'cpu', '--gather', 'nccl'],
    'BAD_OPTION',
    /--gather is nccl, which is of GPUs/,
  ],
  [['--name', 'm', '--device', 'cpu', '--gather', 'peer'], 'BAD_OPTION', /one device computes in DRAM/],
  [['--name', 'm', '--virtual_devices', '2', '--gather', 'nccl'], 'BAD_OPTION', /which is of GPUs/],
  [['--name', 'm', '--log_level', 'loud'], 'BAD_OPTION', /--log_level is 'loud'/],
  [['--name', 'm', '--bach_size', '2'], 'BAD_OPTION', /no option --bach_size .*did you mean --batch_size/],
  [['--name', 'm', '--nvme', 'x'], 'BAD_OPTION', /no option --nvme .*did you mean --nvme_offload_path/],
  [['--name', 'm', '--frobnicate'], 'BAD_OPTION', /no option --frobnicate .*see --help/],
  [['--name', 'm', '--json'], 'BAD_OPTION', /no option --json of generate: it belongs to score/],
  [['generat', '--name', 'm'], 'BAD_OPTION', /no command 'generat': did you mean generate/],
  [['generate', 'm', '--name', 'n'], 'BAD_OPTION', /the model is given as m and as --name n: give it once/],
  [['generate', 'm', 'n'], 'BAD_OPTION', /'n' belongs to no option/],
  [['generate', '', '-p', 'x'], 'BAD_OPTION', /--name is empty/],
  [['org/model', '-p', 'x'], 'BAD_OPTION', /'org\/model' belongs to no option: .* as in generate org\/model/],
  [['doctor', 'm'], 'BAD_OPTION', /'m' belongs to no option: put a value with spaces into quotes$/],
  [['score', '-p', 'x', '-m', 'm'], 'BAD_OPTION', /no option --prompt of score: .*it belongs to generate/],
  [['-m'], 'BAD_OPTION', /-m needs a value; .* written -m=VALUE/],
  [['-m', 'm', '-p', '-text'], 'BAD_OPTION', /-p needs a value; .* written -p=VALUE/],
  [['-m', 'm', '-nx'], 'BAD_OPTION', /--max_new_tokens is 'x'/],
  [['-m', 'm', '-n='], 'BAD_OPTION', /--max_new_tokens is ''/],
  [['-m', 'm', '-n1', '--max_new_tokens=1'], 'BAD_OPTION', /--max_new_tokens is given 2 times/],
  [['-name', 'm'], 'BAD_OPTION', /-name has one dash: write --name/],
  [['-max-new-tokens=3'], 'BAD_OPTION', /-max-new-tokens has one dash: write --max_new_tokens/],
  [['-m', 'm', '-x'], 'BAD_OPTION', /no option -x of generate: see --help/],
  [['-m', 'm', '-b5'], 'BAD_OPTION', /no option -b5 of generate/],
  [['-m', 'm', '--cpu_offload=maybe'], 'BAD_OPTION', /--cpu_offload is 'maybe': write it without a value/],
  [['-m', 'm', '--', '-p', 'x'], 'BAD_OPTION', /'-p' belongs to no option/],
  [['-m', 'm', '--', '--cpu_offload'], 'BAD_OPTION', /'--cpu_offload' belongs to no option/],
  [['--__proto__=x'], 'BAD_OPTION', /no option --__proto__ of generate/],
  [['--=x'], 'BAD_OPTION', /no option -- of generate/],
  [['--name', 'm', '--prompt', 'one', 'two'], 'BAD_OPTION', /'two' belongs to no option/],
  [['--name', 'm', '--prompt', '--benchmark'], 'BAD_OPTION', /--prompt needs a value.*--prompt=VALUE/],
  [['--name', 'm', '--prompt', 'x', '--prompts_file', 'f'], 'BAD_OPTION', /--prompt and --prompts_file/],
  [
    ['--name', 'm', '--cpu_offload', '--nvme_offload_path', 'd'],
    'BAD_OPTION',
    /--cpu_offload and --nvme_off/,
  ],
  [['--name', 'm', '--top_k', '5'], 'BAD_OPTION', /--top_k is for drawing tokens: add --temperature/],
  [['--name', 'm', '--num_samples', '2'], 'BAD_OPTION', /--num_samples is for drawing/],
  [['--name', 'm', '--temperature', 'hot'], 'BAD_OPTION', /--temperature is 'hot': give a number/],
  [['--name', 'm', '--temperature', '-1'], 'BAD_OPTION', /--temperature is -1: give a number from 0/],
  [
    ['--name', 'm', '--temperature', '1', '--top_p', '0'],
    'BAD_OPTION',
    /--top_p is 0: give a number above 0/,
  ],
  [['--name', 'm', '--temperature', '1', '--top_k', '1.5'], 'BAD_OPTION', /--top_k is 1.5: give a whole/],
  [['--name', 'm', '--temperature', '1', '--seed', '-3'], 'BAD_OPTION', /--seed is -3/],
  [['--name', 'm', '--repetition_penalty', '0'], 'BAD_OPTION', /--repetition_penalty is 0/],
  [['--name', 'm', '--stop', ''], 'BAD_OPTION', /--stop is empty/],
  [['--name', 'm', '--system', 'Be brief.'], 'BAD_OPTION', /--system is for --chat/],
  [['--name', 'm', '--cycles', '3'], 'BAD_OPTION', /--cycles is for --benchmark/],
  [['--name', 'm', '--device', 'tpu'], 'BAD_OPTION', /--device is 'tpu': give one of auto, cpu, cuda/],
  [['--name', 'm', '--device', 'cuda'], 'NO_DEVICE', /--device is cuda/],
  [['--name', 'm', '--num_gpus', '64'], 'NO_DEVICE', /--num_gpus is 64, but /],
  [['--name', 'm', '--num_gpus', '0'], 'BAD_OPTION', /--num_gpus is '0'/],
  [
    ['--name', 'm', '--num_gpus', '2', '--device', 'cpu'],
    'BAD_OPTION',
    /--device is cpu and --num_gpus is 2/,
  ],
  [
    ['--name', 'm', '--num_gpus', '2', '--virtual_devices', '2'],
    'BAD_OPTION',
    /--num_gpus and --virtual_dev/,
  ],
  [['--name', 'm', '--virtual_devices', '17'], 'BAD_OPTION', /--virtual_devices is '17': .* from 1 to 16/],
  [
    ['--name', 'm', '--virtual_devices', '2', '--device', 'cuda'],
    'BAD_OPTION',
    /--device is cuda and --virt/,
  ],
  [['--name', 'm', '--resume'], 'BAD_OPTION', /--resume goes on with a file of results: add --output/],
  [['--name', 'm', '--resume', '--output', 'o', '--benchmark'], 'BAD_OPTION', /--resume and --benchmark/],
  [['--name', 'm', '--dtype', 'mxfp4'], 'BAD_OPTION', /--dtype is mxfp4.*give int8, int4, fp8/],
  [['pack', '--name', 'm', '--output', 'o'], 'BAD_OPTION', /--weights is missing/],
  [['pack', '--name', 'm', '--weights', 'int4'], 'BAD_OPTION', /--output is missing/],
  [['pack', '--name', 'm', '--output', 'o', '--weights', 'int2'], 'BAD_OPTION', /--weights is 'int2'/],
  [['pack', '--output', 'o', '--weights', 'int4'], 'BAD_OPTION', /--name is missing/],
  [
    ['pack', '--name', 'm', '--output', 'o', '--weights', 'fp8', '--group_size', '64'],
    'BAD_OPTION',
    /--group_size is for int8 and int4/,
  ],
  [
    ['pack', '--name', 'm', '--output', 'o', '--weights', 'int4', '--group_size', '12'],
    'BAD_OPTION',
    /--group_size is 12: give a multiple of 8/,
  ],
  [['score', '--name', 'm'], 'BAD_OPTION', /--text_file or --token_ids/],
  [['score', '--name', 'm', '--text_file', 'a', '--token_ids', 'b'], 'BAD_OPTION', /--text_file and --token/],
  [['score', '--name', 'm', '--text_file', 'a', '--context', '1'], 'BAD_OPTION', /--context is '1'/],
];

describe('bad command lines', () => {
  it.each(BAD)('%j', (words, code, message) => {
    let error: unknown;
    try {
      read(words);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OperatingError);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  });
});

describe('good command lines', () => {
  it('has the defaults of the scripts that it replaces', () => {
    const options = generateOptions();
    expect(options).toMatchObject({ name: 'm', batchSize: 1, maxNewTokens: 100, offload: 'auto' });
    expect(options).toMatchObject({ prompts: [], ignoreEos: false, benchmark: undefined });
  });

  it('takes their command lines', () => {
    const words = '--batch_size 8 --benchmark --cpu_offload --num_gpus 1 --dtype float16'.split(' ');
    expect(generateOptions(...words)).toMatchObject({
      batchSize: 8,
      benchmark: { warmupCycles: 1, cycles: 5 },
      offload: 'dram',
      dtype: 'float16',
    });
    const offload = generateOptions('--nvme_offload_path', 'd');
    expect(offload).toMatchObject({ offload: 'nvme', offloadDrives: [{ folder: 'd' }] });
  });

  it('knows on how many devices: one unless asked', () => {
    expect(generateOptions('--device', 'cpu')).toMatchObject({ device: 'cpu', deviceCount: 1 });
    expect(generateOptions('--num_gpus', '1', '--device', 'cpu')).toMatchObject({ deviceCount: 1 });
    const virtual = generateOptions('--virtual_devices', '3');
    expect(virtual).toMatchObject({ device: 'cpu', deviceCount: 3, cpu: { virtualDevices: 3 } });
  });

  it('says how many GPUs there are, and which list of them is in force', () => {
    const said = '--num_gpus is 4';
    expect(tooFewGpus(said, 1, undefined).message).toBe(`${said}, but CUDA finds 1 GPU: give at most 1`);
    expect(tooFewGpus(said, 2, '0,3').message).toBe(
      "--num_gpus is 4, but CUDA finds 2 GPUs (CUDA_VISIBLE_DEVICES is '0,3'): give at most 2",
    );
  });

  it('is greedy unless asked, and draws with a seed of its own unless given one', () => {
    expect(generateOptions()).toMatchObject({
      sampling: { temperature: 0, repetitionPenalty: 1 },
      samples: undefined,
      stopStrings: [],
    });
    expect(generateOptions('--temperature', '0')).toMatchObject({
      sampling: { temperature: 0 },
      temperatureGiven: true,
    });
    const words = '--temperature 0.7 --top_k 40 --top_p 0.9 --min_p 0.05 --repetition_penalty 1.1 --seed 12';
    expect(generateOptions(...words.split(' '), '--num_samples', '3')).toMatchObject({
      sampling: { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.05, repetitionPenalty: 1.1, seed: 12 },
      samples: 3,
    });
    const seeds = [1, 2].map(() => generateOptions('--temperature', '1').sampling.seed);
    expect(seeds[0]).not.toBe(seeds[1]);
    // A penalty changes what is likeliest, so it needs no temperature.
    expect(generateOptions('--repetition_penalty', '1.2').sampling).toMatchObject({ temperature: 0 });
  });

  it('takes several stop strings, and a chat with a system message', () => {
    expect(generateOptions('--stop', 'a', '--stop', '\n\n').stopStrings).toEqual(['a', '\n\n']);
    expect(generateOptions('--chat', '--system', '').chat).toEqual({ system: '' });
    expect(generateOptions('--chat').chat).toEqual({ system: undefined });
    expect(generateOptions().chat).toBeUndefined();
  });

  it('takes dashes for underscores in names, not in values', () => {
    const options = generateOptions('--batch-size', '2', '--prompt=--batch-size', '--max-new-tokens=5');
    expect(options).toMatchObject({ batchSize: 2, prompts: ['--batch-size'], maxNewTokens: 5 });
  });

  it('keeps prompts as they are: empty, numeric, repeated', () => {
    const options = generateOptions('--prompt', '', '--prompt', '007', '--prompt', 'a  b', '--prompt=-x');
    expect(options.prompts).toEqual(['', '007', 'a  b', '-x']);
  });

  it('knows --dummy_weights with and without a folder', () => {
    expect(generateOptions('--dummy_weights').dummyWeights).toEqual({ folder: undefined });
    expect(generateOptions('--dummy_weights', 'd').dummyWeights).toEqual({ folder: 'd' });
    expect(generateOptions().dummyWeights).toBeUndefined();
  });

  it('passes tuning on, and leaves out what was not given', () => {
    const words = '--prefetch_layers 3 --micro_batch_size 2 --micro_batch_tokens 64 --threads 2'.split(' ');
    const options = generateOptions(...words, '--io_engine', 'threads', '--no_direct_io');
    expect(options.plan).toEqual({ hostWindowLayers: 3, microBatchSequences: 2, microBatchTokens: 64 });
    expect(options.cpu).toEqual({
      threads: 2,
      io: { engine: 'threads', direct: false },
    });
    expect(generateOptions().plan).toEqual({});
    expect(generateOptions().cpu).toEqual({ io: {} });
    expect(generateOptions('--device', 'cpu', '--compute_dtype', 'float32_tiles').cpu.computeType).toBe(
      'float32_tiles',
    );
    expect(generateOptions('--device', 'cpu', '--compute_dtype', 'bfloat16').cpu.computeType).toBe(
      'bfloat16',
    );
  });

  it.each<[string[], object]>([
    [['generate', 'm'], {}],
    [['generate', 'm', '--name', 'm'], {}],
    [['-m', 'm', 'generate'], {}],
    [['generate', '--', 'm'], {}],
    [['-mm', '-px', '-n12'], { prompts: ['x'], maxNewTokens: 12 }],
    [['-m=m', '-p=-text', '-n=12'], { prompts: ['-text'], maxNewTokens: 12 }],
    [
      ['generate', '-p', 'a', 'm', '-p', '-4 degrees', '-n', '3'],
      { prompts: ['a', '-4 degrees'], maxNewTokens: 3 },
    ],
    [['generate', '--cpu-offload', 'm', '-p-text'], { offload: 'dram', prompts: ['-text'] }],
    [['generate', '--cpu_offload=false', 'm', '-p=a=b'], { offload: 'auto', prompts: ['a=b'] }],
    [['--cpu_offload', 'false', '-m', 'm', '--nvme_offload_path', 'd'], { offload: 'nvme' }],
    [['generate', 'm', '-p='], { prompts: [''] }],
    [['generate', 'm', '--prompts_file', '-'], { promptsFile: '-' }],
  ])('takes a model by its place, and letters for options: %j', (words, options) => {
    expect(read(words)).toMatchObject({ command: 'generate', name: 'm', ...options });
  });

  it('a model after score and plan, also one that is called like a command', () => {
    expect(read(['score', 'plan', '--token_ids', 'f'])).toMatchObject({ command: 'score', name: 'plan' });
    const planned = parseCommandLine(['plan', '-n', '7', 'm']);
    if (planned.kind !== 'run') throw new Error('help was printed');
    expect(readPlanCommandOptions(planned.options)).toMatchObject({ name: 'm', newTokens: 7 });
  });

  it('generate is the default command, and may be named', () => {
    expect(read(['--name', 'm']).command).toBe('generate');
    expect(read(['generate', '--name', 'm']).command).toBe('generate');
    expect(read(['score', '--name', 'm', '--token_ids', 'f'])).toMatchObject({
      command: 'score',
      input: { kind: 'ids', path: 'f' },
      batchSize: undefined,
      json: false,
    });
  });
});

describe('help', () => {
  it.each([
    [['--help'], undefined],
    [['score', '-h'], 'score'],
    [['--name', 'm', '--help', 'plan'], 'plan'],
  ])('%j lists options, groups and examples', async (words, command) => {
    const parsed = parseCommandLine(words);
    expect(parsed).toEqual({ kind: 'help', command });
    const text = await helpText(command as CommandName | undefined, 100);
    for (const part of ['-m, --name', '--nvme_offload_path', 'Where weights rest:', 'Examples:'])
      expect(text).toContain(part);
    if (command === undefined)
      for (const name of Object.keys(COMMANDS)) expect(text).toContain(`inference ${name}`);
    else expect(text).toContain(`zero-inference ${command} [model]`);
  });

  it.each(['--version', '-V', '-v'])('says the version: %s', async (word) => {
    expect(parseCommandLine([word])).toEqual({ kind: 'version' });
    expect((await runCli([word])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('an option is written in one way, whatever the command, and one letter means one of them', () => {
    const tables = Object.values(COMMANDS).map(({ options }) => options);
    for (const [name, { kind, short }] of tables.flatMap((table) => Object.entries(table))) {
      for (const table of tables) if (name in table) expect(table[name], name).toMatchObject({ kind });
      if (short === undefined) continue;
      expect(SHORT_NAMES.get(short)).toBe(name);
      expect(short).toMatch(/^[a-z]$/);
      expect(['h', 'v']).not.toContain(short);
      expect(kind).toMatch(/value|list/);
    }
  });
});

describe('options that change nothing', () => {
  const cpu = ['--device', 'cpu'];
  const table: readonly (readonly [readonly string[], readonly string[]])[] = [
    [
      [...cpu, '--gpu_memory', '4GiB'],
      ['--gpu_memory is given and changes nothing: the CPU computes in DRAM'],
    ],
    [[...cpu, '--kv_offload'], ['--kv_offload is given and changes nothing']],
    [
      ['--virtual_devices', '2', '--gpu_memory', '4GiB'],
      ['--gpu_memory is given and changes nothing: virtual devices'],
    ],
    [['--virtual_devices', '2', '--kv_offload', '--gather', 'peer'], []],
    [[...cpu, '--threads', '1', '--io_engine', 'threads', '--no_direct_io', '--dram_memory', '1GiB'], []],
  ];
  it.each(table)('%j', (words, sentences) => {
    const { warnings } = generateOptions(...words);
    expect(warnings.map((line, index) => line.slice(0, sentences[index]?.length))).toEqual(sentences);
  });

  it('for a described machine: what would be measured', () => {
    const parsed = parseCommandLine([
      'plan',
      '--name',
      'm',
      '--machine',
      'f',
      '--threads',
      '2',
      '--no_direct_io',
      '--io_engine',
      'threads',
    ]);
    if (parsed.kind !== 'run') throw new Error('help was printed');
    expect(readPlanCommandOptions(parsed.options).warnings).toHaveLength(3);
  });

  it('for a GPU: what is of the CPU, and gathering by one alone', () => {
    const values = { threads: '4', gather: 'peer' };
    const one = idleOptions(new OptionReader(values), { device: 'cuda', deviceCount: 1, described: false });
    expect(one.map((line) => line.split(' ')[0])).toEqual(['--threads', '--gather']);
    const two = idleOptions(new OptionReader(values), { device: 'cuda', deviceCount: 2, described: false });
    expect(two.map((line) => line.split(' ')[0])).toEqual(['--threads']);
  });
});
