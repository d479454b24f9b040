// Bad input ends with one sentence, a code and its exit status: no stack, no result, nothing half written.

import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, type ErrorCode } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('bloom');

/** A copy of a fixture that a test may spoil. */
function copyOf(name: string, spoil: (folder: string) => void): string {
  const folder = join(newFolder(), name);
  cpSync(modelFolder(name), folder, { recursive: true });
  spoil(folder);
  return folder;
}

function edit(path: string, from: string | RegExp, to: string): void {
  writeFileSync(path, readFileSync(path, 'utf8').replaceAll(from, to));
}

function fileWith(name: string, content: string | Uint8Array): string {
  const path = join(newFolder(), name);
  writeFileSync(path, content);
  return path;
}

async function expectFailure(args: readonly string[], code: ErrorCode, message: RegExp): Promise<void> {
  const result = await runCli(args);
  expect(result.errors).toHaveLength(1);
  expect(result.errors[0]).toMatch(new RegExp(`^zero-inference: ${code}: `));
  expect(result.errors[0]).toMatch(message);
  expect(result.status).toBe(ERROR_CODES[code].exitStatus);
  expect(result.stdout).toBe('');
}

describe.concurrent('models', () => {
  it('no such folder', () =>
    expectFailure(['--name', '/no/such/model'], 'NOT_FOUND', /no folder '\/no\/such\/model'/));

  it('truncated weights', () => {
    const folder = copyOf('bloom', (path) => truncateSync(join(path, 'model.safetensors'), 400_000));
    return expectFailure(['--name', folder], 'BAD_SAFETENSORS', /need 455152 bytes, it has 400000/);
  });

  it('an unknown architecture', () => {
    const folder = copyOf('bloom', (path) => edit(join(path, 'config.json'), '"bloom"', '"rwkv"'));
    return expectFailure(['--name', folder], 'UNSUPPORTED', /model_type "rwkv"/);
  });

  it('a tensor that is missing', () => {
    const folder = copyOf('bloom', (path) => edit(join(path, 'config.json'), '"n_layer": 4', '"n_layer": 5'));
    return expectFailure(['--name', folder], 'MISSING_TENSOR', /h\.4\.input_layernorm/);
  });

  it('a tensor of another shape', () => {
    const folder = copyOf('bloom', (path) => edit(join(path, 'config.json'), ': 64', ': 128'));
    return expectFailure(['--name', folder], 'WRONG_SHAPE', /\[384, 64\].*\[384, 128\]/);
  });

  it('a shard that is absent', () => {
    const shard = 'model-00003-of-00010.safetensors';
    const folder = copyOf('bloom-6-heads', (path) => rmSync(join(path, shard)));
    return expectFailure(['--name', folder], 'BAD_INDEX', new RegExp(shard));
  });

  it('a prompt of text without a tokenizer', () => {
    const folder = copyOf('bloom', (path) => rmSync(join(path, 'tokenizer.json')));
    return expectFailure(['--name', folder, '--prompt', 'x'], 'BAD_TOKENIZER', /tokenizer\.json is absent/);
  });

  it('a shape without --dummy_weights', () => {
    const shape = fileWith('shape.json', '{}');
    return expectFailure(['--name', shape], 'BAD_OPTION', /add --dummy_weights/);
  });

  it('a type that the weights do not have', () =>
    expectFailure(['--name', MODEL, '--dtype', 'float32'], 'UNSUPPORTED', /--dtype is float32.* as F16/));

  it('a budget below the smallest plan, which it names', async () => {
    const small = await runCli(['--name', MODEL, '--dram_memory', '64KiB']);
    const [, least = ''] = /give --dram_memory (\d+MiB) or more/.exec(small.errors[0] ?? '') ?? [];
    expect(small.status).toBe(ERROR_CODES.DOES_NOT_FIT.exitStatus);
    const enough = await runCli(['--name', MODEL, '--dram_memory', least, '--max_new_tokens', '2']);
    expect(enough.errors).toEqual([]);
  });
});

describe.concurrent('prompts', () => {
  it('one that is longer than the context, by its index, before anything is written', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const prompts = ['--prompt', 'x', '--prompt', 'word '.repeat(300), '--output', output];
    await expectFailure(
      ['--name', modelFolder('gpt2'), ...prompts],
      'PROMPT_TOO_LONG',
      /^.* prompt 1 has \d+ tokens and is to get 100 more.*context is 256/,
    );
    expect(existsSync(output)).toBe(false);
  });

  it('one beyond what an index lets every token see, with the length that works', async () => {
    for (const [name, topk, most] of [
      ['glm_moe_dsa', 40, 40],
      ['deepseek_v4', 8, 17],
    ] as const) {
      const folder = copyOf(name, (path) =>
        edit(join(path, 'config.json'), /"index_topk": \d+/g, `"index_topk": ${topk}`),
      );
      const model = ['--name', folder];
      const long = [...model, '--prompt', 'a', '--max_new_tokens', '80'];
      await expectFailure(long, 'PROMPT_TOO_LONG', new RegExp(`the model's context is ${most}:`));
      const wide = [...model, '--prompt', 'a', '--max_new_tokens', '2', '--max_context', '100'];
      await expectFailure(wide, 'BAD_OPTION', new RegExp(`the model has a context of ${most}:`));
      const scored = ['score', ...model, '--text_file', fileWith(`${name}.txt`, 'a b c'), '--context', '100'];
      await expectFailure(scored, 'BAD_OPTION', new RegExp(`the model's context is ${most}`));
    }
  });

  it('an empty one where the model has no start token', () => {
    const folder = copyOf('bloom', (path) => {
      for (const name of ['config.json', 'generation_config.json', 'tokenizer_config.json'])
        edit(join(path, name), /.*"bos_token.*\n/g, '');
    });
    return expectFailure(['--name', folder, '--prompt', ''], 'EMPTY_PROMPT', /prompt 0 has no tokens/);
  });

  it('a file that is absent, no text, or no JSON', async () => {
    await expectFailure(['--name', MODEL, '--prompts_file', '/no/file'], 'NOT_FOUND', /no file '\/no\/file'/);
    const binary = fileWith('p.txt', Uint8Array.of(0xff, 0xfe));
    await expectFailure(['--name', MODEL, '--prompts_file', binary], 'BAD_INPUT', /not UTF-8/);
    const ids = fileWith('ids.json', '[1, 2');
    await expectFailure(['score', '--name', MODEL, '--token_ids', ids], 'BAD_INPUT', /ids\.json is not JSON/);
  });

  it('a text of less than two tokens', () => {
    const ids = fileWith('ids.json', '[1]');
    return expectFailure(['score', '--name', MODEL, '--token_ids', ids], 'BAD_INPUT', /has 1 tokens/);
  });
});

describe.concurrent('outputs and options', () => {
  it.each(['--output', '--report', '--trace'])('%s that cannot be written', (option) =>
    expectFailure(['--name', MODEL, option, '/no/such/folder/file'], 'WRITE_FAILED', /no folder \/no\/such/),
  );

  it('a file that is both read and written', () => {
    const file = fileWith('p.jsonl', '{"prompt": "x"}');
    const args = ['--prompts_file', file, '--output', file];
    return expectFailure(['--name', MODEL, ...args], 'BAD_OPTION', /--prompts_file and --output are both/);
  });

  it('a file that fills the drive', async () => {
    const result = await runCli(['--name', MODEL, '--output', '/dev/full', '--max_new_tokens', '2']);
    expect(result.errors[0]).toMatch(/WRITE_FAILED: --output: \/dev\/full cannot be written: ENOSPC/);
    expect(result.status).toBe(ERROR_CODES.WRITE_FAILED.exitStatus);
  });

  it('an unknown option', () =>
    expectFailure(['--name', MODEL, '--bath_size', '2'], 'BAD_OPTION', /did you mean --batch_size/));

  it('shows where it failed only on request', async () => {
    const result = await runCli(['--name', '/no/such/model'], { env: { ZI_DEBUG: '1' } });
    expect(result.errors.join('\n')).toMatch(/\n\s+at /);
  });
});

describe('weights that fail while they stream', () => {
  it('a file that shrinks', async () => {
    const folder = copyOf('shakespeare-bloom', () => undefined);
    const weights = join(folder, 'model.safetensors');
    let cut = false;
    const args = [
      '--prompt',
      'ROMEO:',
      '--nvme_offload_path',
      folder,
      '--max_new_tokens',
      '3000',
      '--ignore_eos',
    ];
    const result = await runCli(['--name', folder, ...args], {
      onStdout: () => {
        if (!cut) truncateSync(weights, 4_000_000);
        cut = true;
      },
    });
    expect(result.errors).toHaveLength(1);
    expect(result.errors[0]).toMatch(
      /FILE_CHANGED: .*model\.safetensors (ended at offset \d+|had \d+ bytes when it was opened)/,
    );
    expect(result.status).toBe(ERROR_CODES.FILE_CHANGED.exitStatus);
  });

  it('a read error names file and offset', async () => {
    const opened = await openModel(MODEL);
    const workload = { sequences: 1, contextTokens: 8, promptTokens: 4, output: 'tokens' as const };
    const faults = { errorAtFileOffset: { offset: 300_000, errno: 5 } };
    const engine = await Engine.open(opened, { offload: 'nvme', workload, cpu: { io: { faults } } });
    const requests = [{ index: 0, promptTokens: Int32Array.of(1, 2, 3, 4) }];
    const options = { batchSize: 1, maxNewTokens: 4, stopTokens: new Set<number>() };
    try {
      await expect(generate(engine.executor, requests, options)).rejects.toMatchObject({
        code: 'READ_FAILED',
        message: expect.stringMatching(/model\.safetensors cannot be read at offset \d+ \(EIO\)/),
      });
    } finally {
      await engine.close();
    }
  });
});
