// What is wrong with what a program gives is told in a sentence with a code, in this package's words, and ends nothing else.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { open } from '../../src/index.js';
import type { Engine, GenerateOptions, OpenOptions, Prompt } from '../../src/library/types.js';
import { modelFolder } from '../helpers/fixtures.js';
import { spoilCheckpoint } from '../helpers/spoilt-checkpoint.js';
import { tempFolder } from '../helpers/temp-folder.js';

const FOLDER = modelFolder('llama');
const ABORTED = AbortSignal.abort(new Error('before it began'));
/** Whatever the declarations say. */
const untyped = <T>(value: unknown): T => value as T;

describe('open', () => {
  const cases: readonly (readonly [string, unknown, unknown, string, RegExp])[] = [
    ['no model', undefined, {}, 'BAD_OPTION', /^the model is undefined: give the folder/],
    ['an empty model', '', {}, 'BAD_OPTION', /^the model is '': give the folder/],
    ['a URL', new URL('file:///tmp'), {}, 'BAD_OPTION', /^the model is a value of type URL/],
    ['a folder that is not there', '/nowhere/at/all', {}, 'NOT_FOUND', /\/nowhere\/at\/all/],
    [
      'an option that is none',
      FOLDER,
      { offlaod: 'dram' },
      'BAD_OPTION',
      /'offlaod': did you mean 'offload'\?/,
    ],
    ['the command line’s name', FOLDER, { dram_memory: 1 }, 'BAD_OPTION', /did you mean 'dramMemory'\?/],
    ['far from any option', FOLDER, { zzzzzz: 1 }, 'BAD_OPTION', /'zzzzzz': there are task, device/],
    ['options that are none', FOLDER, 'cpu', 'BAD_OPTION', /^the options of open are 'cpu': give an object/],
    ['options that are null', FOLDER, null, 'BAD_OPTION', /are null: give an object/],
    ['a list of options', FOLDER, ['cpu'], 'BAD_OPTION', /are a list: give an object/],
    [
      'another device',
      FOLDER,
      { device: 'gpu' },
      'BAD_OPTION',
      /^device is 'gpu': give one of 'auto', 'cpu', 'cuda'/,
    ],
    ['GPUs on the CPU', FOLDER, { device: 'cpu', numGpus: 2 }, 'BAD_OPTION', /numGpus is 2: leave one out/],
    ['GPU memory on the CPU', FOLDER, { device: 'cpu', gpuMemory: 1 }, 'BAD_OPTION', /gpuMemory is of GPUs/],
    ['another task', FOLDER, { task: 'chat' }, 'BAD_OPTION', /^task is 'chat'/],
    ['a path with DRAM', FOLDER, { offload: 'dram', nvmePath: '/tmp' }, 'BAD_OPTION', /leave one out/],
    ['no bytes', FOLDER, { dramMemory: 0 }, 'BAD_OPTION', /^dramMemory is 0: give bytes/],
    ['half a byte', FOLDER, { dramMemory: 0.5 }, 'BAD_OPTION', /^dramMemory is 0.5/],
    ['NaN bytes', FOLDER, { dramMemory: Number.NaN }, 'BAD_OPTION', /^dramMemory is NaN/],
    ['negative bytes', FOLDER, { dramMemory: -5 }, 'BAD_OPTION', /^dramMemory is -5/],
    ['a bigint', FOLDER, { dramMemory: 5n }, 'BAD_OPTION', /^dramMemory is 5n/],
    [
      'a size without a unit',
      FOLDER,
      { dramMemory: 'much' },
      'BAD_OPTION',
      /^dramMemory is 'much': write a size/,
    ],
    ['too little', FOLDER, { dramMemory: '10KiB' }, 'DOES_NOT_FIT', /give dramMemory \d+MiB or more/],
    ['too many sequences', FOLDER, { maxSequences: 1e9 }, 'BAD_OPTION', /^maxSequences is 1000000000/],
    ['no sequences', FOLDER, { maxSequences: 0 }, 'BAD_OPTION', /from 1 to 16384/],
    [
      'more context than the model has',
      FOLDER,
      { contextTokens: 1e6 },
      'BAD_OPTION',
      /context of 256: lower it/,
    ],
    [
      'a revision of a folder',
      FOLDER,
      { revision: 'main' },
      'BAD_OPTION',
      /^revision is for models of the hub/,
    ],
    ['a logger that is none', FOLDER, { logger: console.log }, 'BAD_OPTION', /the methods debug, info, warn/],
    [
      'progress to nobody',
      FOLDER,
      { onProgress: true },
      'BAD_OPTION',
      /^onProgress is true: give a function/,
    ],
    [
      'a controller as signal',
      FOLDER,
      { signal: new AbortController() },
      'BAD_OPTION',
      /give an AbortSignal/,
    ],
    [
      'a type of keys and values that is none',
      FOLDER,
      { kvDtype: 'int2' },
      'BAD_OPTION',
      /^kvDtype is 'int2'/,
    ],
    ['a type that nothing is packed as', FOLDER, { dtype: 'mxfp4' }, 'BAD_OPTION', /^dtype is 'mxfp4'/],
    [
      'a type that the weights have not',
      FOLDER,
      { dtype: 'float32', device: 'cpu' },
      'UNSUPPORTED',
      /^dtype is float32, but .* as .*F16.*leave dtype out/,
    ],
    ['a flag that is a text', FOLDER, { generationConfig: 'yes' }, 'BAD_OPTION', /give true or false/],
  ];
  it.each(cases)('%s', async (_, model, options, code, message) => {
    const opening = open(untyped<string>(model), untyped<OpenOptions>(options));
    await expect(opening).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('an aborted signal rejects with its reason', async () => {
    await expect(open(FOLDER, { signal: ABORTED })).rejects.toThrow('before it began');
    const controller = new AbortController();
    const opening = open(FOLDER, { signal: controller.signal });
    controller.abort(new Error('meanwhile'));
    await expect(opening).rejects.toThrow('meanwhile');
  });
});

describe('generate', () => {
  let engine: Engine;
  let sound: string;
  beforeAll(async () => {
    engine = await open(FOLDER, { device: 'cpu', contextTokens: 64, maxSequences: 4 });
    sound = (await engine.generate({ tokens: [5, 6] }, { maxNewTokens: 3 }).result).text;
  });
  afterAll(() => engine.close());

  const prompts: readonly (readonly [string, unknown, string, RegExp])[] = [
    ['nothing', undefined, 'BAD_INPUT', /^the prompt is undefined: give a text/],
    ['null', null, 'BAD_INPUT', /^the prompt is null/],
    ['a number', 42, 'BAD_INPUT', /^the prompt is 42/],
    ['a list', ['a', 'b'], 'BAD_INPUT', /^the prompt is a list/],
    ['bytes', Buffer.from('text'), 'BAD_INPUT', /^the prompt is a value of type Uint8Array/],
    ['a String', new String('text'), 'BAD_INPUT', /^the prompt is a value of type String/],
    ['an empty object', {}, 'BAD_INPUT', /give one of them/],
    ['both', { tokens: [1], messages: [] }, 'BAD_INPUT', /give one of them/],
    ['a key that is none', { token: [1] }, 'BAD_INPUT', /'token': did you mean 'tokens'/],
    ['half a character', 'a\ud800', 'BAD_INPUT', /half a character, U\+D800, at 1/],
    ['no ids', { tokens: 'abc' }, 'BAD_INPUT', /'abc' as tokens/],
    ['a float array', { tokens: Float32Array.of(1) }, 'BAD_INPUT', /type Float32Array as tokens/],
    ['half an id', { tokens: [1, 2.5] }, 'BAD_INPUT', /the prompt has 2.5 at 1/],
    ['a NaN id', { tokens: [Number.NaN] }, 'BAD_INPUT', /which is no token id/],
    ['a negative id', { tokens: Int32Array.of(-1) }, 'BAD_INPUT', /the prompt has -1 at 0/],
    ['an id beyond', { tokens: [384] }, 'BAD_INPUT', /vocabulary has 384 tokens/],
    [
      'too many',
      { tokens: Array(64).fill(1) },
      'PROMPT_TOO_LONG',
      /has 64 tokens and is to get at least 1 more/,
    ],
    ['no messages', { messages: [] }, 'BAD_INPUT', /messages is a list without any/],
    ['a message that is none', { messages: ['hi'] }, 'BAD_INPUT', /message 0 is 'hi'/],
    [
      'a role that is none',
      { messages: [{ role: 'bot', content: '' }] },
      'BAD_INPUT',
      /the role 'bot': give one/,
    ],
    ['no content', { messages: [{ role: 'user' }] }, 'BAD_INPUT', /undefined as content/],
    [
      'more in a message',
      { messages: [{ role: 'user', content: 'a', name: 'b' }] },
      'BAD_INPUT',
      /message 0: .*'name'/,
    ],
    [
      'no template',
      { messages: [{ role: 'user', content: 'a' }] },
      'BAD_OPTION',
      /need a chat template, and .* has none/,
    ],
  ];
  it.each(prompts)('of %s', async (_, prompt, code, message) => {
    const text = engine.generate(untyped<Prompt>(prompt));
    const error = { code, message: expect.stringMatching(message) };
    await expect(text.result).rejects.toMatchObject(error);
    await expect(text[Symbol.asyncIterator]().next()).rejects.toMatchObject(error);
  });

  const options: readonly (readonly [string, unknown, string | undefined, RegExp])[] = [
    ['options that are none', 12, 'BAD_OPTION', /^the options of a text are 12/],
    ['a Map', new Map([['maxNewTokens', 3]]), 'BAD_OPTION', /are a value of type Map: give an object/],
    [
      'a getter that throws',
      Object.defineProperty({}, 'seed', { enumerable: true, get: () => JSON.parse('') }),
      undefined,
      /JSON/,
    ],
    ['an unknown one', { max_new_tokens: 3 }, 'BAD_OPTION', /did you mean 'maxNewTokens'/],
    ['maxNewTokens 0', { maxNewTokens: 0 }, 'BAD_OPTION', /^maxNewTokens is 0: give a whole number from 1/],
    ['maxNewTokens -1', { maxNewTokens: -1 }, 'BAD_OPTION', /^maxNewTokens is -1/],
    ['maxNewTokens 1.5', { maxNewTokens: 1.5 }, 'BAD_OPTION', /^maxNewTokens is 1.5/],
    ['maxNewTokens "3"', { maxNewTokens: '3' }, 'BAD_OPTION', /^maxNewTokens is '3'/],
    ['more than there is room for', { maxNewTokens: 63 }, 'PROMPT_TOO_LONG', /there is room for 64/],
    ['temperature NaN', { temperature: Number.NaN }, 'BAD_OPTION', /^temperature is NaN/],
    ['temperature -1', { temperature: -1 }, 'BAD_OPTION', /^temperature is -1/],
    ['temperature "hot"', { temperature: 'hot' }, 'BAD_OPTION', /^temperature is 'hot': give a number/],
    ['topP 0', { temperature: 1, topP: 0 }, 'BAD_OPTION', /^topP is 0/],
    ['topK 1.5', { temperature: 1, topK: 1.5 }, 'BAD_OPTION', /^topK is 1.5/],
    ['minP 2', { temperature: 1, minP: 2 }, 'BAD_OPTION', /^minP is 2/],
    ['repetitionPenalty 0', { repetitionPenalty: 0 }, 'BAD_OPTION', /^repetitionPenalty is 0/],
    ['seed NaN', { temperature: 1, seed: Number.NaN }, 'BAD_OPTION', /^seed is NaN: give a whole number/],
    ['seed -1', { temperature: 1, seed: -1 }, 'BAD_OPTION', /^seed is -1/],
    ['seed 2^53', { temperature: 1, seed: 2 ** 53 }, 'BAD_OPTION', /^seed is 9007199254740992/],
    ['a seed of the likeliest', { seed: 1 }, 'BAD_OPTION', /^seed is for drawing tokens: give a temperature/],
    ['an empty stop', { stop: '' }, 'BAD_OPTION', /^stop has ''/],
    ['a stop that is none', { stop: ['a', 1] }, 'BAD_OPTION', /^stop has 1/],
    ['stopTokens 5', { stopTokens: 5 }, 'BAD_OPTION', /^stopTokens is 5/],
    ['stopTokens beyond', { stopTokens: [384] }, 'BAD_OPTION', /^stopTokens has token id 384/],
    ['logProbs 1', { logProbs: 1 }, 'BAD_OPTION', /^logProbs is 1: give true or false/],
    ['topLogProbs 21', { logProbs: true, topLogProbs: 21 }, 'BAD_OPTION', /^topLogProbs is 21: give a whole/],
    ['topLogProbs alone', { topLogProbs: 2 }, 'BAD_OPTION', /^topLogProbs is told beside logProbs/],
    ['system without messages', { system: 'Be kind.' }, 'BAD_OPTION', /^system is for prompts of messages/],
    ['a signal that is none', { signal: {} }, 'BAD_OPTION', /^signal is an object: give an AbortSignal/],
  ];
  it.each(options)('with %s', async (_, given, code, message) => {
    const text = engine.generate({ tokens: [5, 6] }, untyped<GenerateOptions>(given));
    await expect(text.result).rejects.toMatchObject({
      ...(code ? { code } : {}),
      message: expect.stringMatching(message),
    });
  });

  it('an aborted signal before the start', async () => {
    await expect(engine.generate('a', { signal: ABORTED }).result).rejects.toThrow('before it began');
  });

  it('scoring with it, and tokens of what is none', async () => {
    await expect(engine.score('a b c')).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(engine.tokenize(untyped<string>(3))).rejects.toMatchObject({ code: 'BAD_INPUT' });
    await expect(engine.tokenize('a', untyped({ special: true }))).rejects.toMatchObject({
      code: 'BAD_OPTION',
    });
    expect(() => engine.detokenize([1.5])).toThrow(/1.5 at 0, which is no token id/);
    expect(() => engine.detokenize(untyped('abc'))).toThrow(/'abc' as tokens/);
  });

  it('all at once end nothing but themselves', async () => {
    const wrong = [
      ...prompts.map(([, prompt]) => engine.generate(untyped<Prompt>(prompt))),
      ...options.map(([, , given]) => engine.generate({ tokens: [5, 6] }, untyped<GenerateOptions>(given))),
    ];
    const right = [1, 2, 3].map(() => engine.generate({ tokens: [5, 6] }, { maxNewTokens: 3 }));
    const settled = await Promise.allSettled(wrong.map(({ result }) => result));
    expect(settled.filter(({ status }) => status === 'fulfilled').length).toBeLessThan(settled.length);
    for (const { result } of right) expect((await result).text).toBe(sound);
  });
});

it('a prompt without tokens, of a model without a start token', async () => {
  const engine = await open(modelFolder('gpt2'), { device: 'cpu', contextTokens: 32, maxSequences: 1 });
  await expect(engine.generate({ tokens: [] }, { maxNewTokens: 2 }).result).resolves.toMatchObject({
    promptTokens: 1,
  });
  await engine.close();
});

it('what a file has wrong is told as such', async () => {
  const folder = tempFolder();
  spoilCheckpoint(folder, 'llama', [{ tensor: 'lm_head.weight', index: 0, value: Number.NaN }]);
  const engine = await open(folder, { device: 'cpu', contextTokens: 32, maxSequences: 2 });
  await expect(engine.generate({ tokens: [5] }, { maxNewTokens: 2 }).result).rejects.toMatchObject({
    code: 'NOT_FINITE',
    message: expect.stringMatching(/in the head/),
  });
  await engine.close();
});
