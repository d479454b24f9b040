// The command line on a GPU: texts as the engine makes them there, and every command that uses one; skipped without a GPU.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cudaStatus, GiB, type PlanOptions } from '../../offload/index.js';
import { runCli } from '../helpers/cli.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { certainSteps, fixtureFolder, generateFixture, readGolden } from './run-model.js';

const HAS_GPU = cudaStatus().problem === '';
/** Dense, with experts, with latent attention, with states, compressed, and of every kind of stored weights. */
const MODELS = [
  ...['llama', 'bloom-6-heads', 'gemma3_text', 'mixtral', 'gpt_oss', 'gpt_oss-mxfp4', 'deepseek_v3'],
  ...['qwen3_next', 'nemotron_h', 'deepseek_v4', 'q-fp8-block-llama', 'q-fp8-block-deepseek_v3'],
  ...['q-ct-fp8-llama', 'q-ct-int4-llama', 'q-ct-int8-qwen3', 'q-awq-int4-qwen2', 'q-gptq-int4-llama'],
  ...['q-bnb-int8-opt', 'q-bnb-nf4-llama'],
];
const STEPS = 12;
/** What the reference says in float32 holds where two tokens are this far apart; as in cuda.test.ts. */
const CERTAIN_MARGIN = 0.05;
/** A likelihood in 16 bits or with stored keys beside the CPU's in float32; random weights turn choices of experts. */
const MOST_LOST = 0.03;

const WAYS: readonly [string, readonly string[], Partial<PlanOptions>][] = [
  ['as it is', [], {}],
  ['in float32', ['--compute_dtype', 'float32'], { activationType: 'f32' }],
  ['with --kv_dtype int8', ['--kv_dtype', 'int8'], { kvType: 'i8' }],
];

const newFolder = sharedFolder();

/** The golden prompts, so that lines name ids. */
function promptsOf(name: string): string {
  const path = join(newFolder(), 'prompts.jsonl');
  const lines = readGolden(name).input_ids.map((ids) => `${JSON.stringify({ prompt_token_ids: ids })}\n`);
  writeFileSync(path, lines.join(''));
  return path;
}

function textFile(): string {
  const path = join(newFolder(), 'text');
  writeFileSync(path, readFileSync(fixtureFolder('llama/config.json'), 'utf8').slice(0, 200));
  return path;
}

async function run(...words: string[]): Promise<string> {
  const { status, stdout, errors } = await runCli(words);
  expect(errors).toEqual([]);
  expect(status).toBe(0);
  return stdout;
}

describe.skipIf(!HAS_GPU).concurrent.each(MODELS)('%s by the command line on a GPU', (name) => {
  const golden = readGolden(name);
  const folder = fixtureFolder(name);

  it.each(WAYS)('makes the tokens of the engine, %s', async (_, words, plan) => {
    const several = ['--prompts_file', promptsOf(name), '--batch_size', String(golden.input_ids.length)];
    const few = ['-n', String(STEPS), '--ignore_eos', '--output', '-', '--cpu_offload'];
    const report = join(newFolder(), 'report.json');
    const lines = await run('generate', folder, ...several, ...few, ...words, '--report', report);
    const made = lines.trimEnd().split('\n');
    const tokens = made.map((line) => JSON.parse(line).token_ids);
    const placement = { device: 'cuda', offload: 'dram', dramBudgetBytes: GiB, plan } as const;
    const engine = await generateFixture(name, golden.input_ids, STEPS, placement);
    expect(tokens).toEqual(engine.map((text) => text.tokens));
    if (plan.activationType === 'f32') {
      golden.greedy.forEach((expected, index) => {
        const certain = Math.min(STEPS, certainSteps(golden.greedy_margins?.[index], STEPS, CERTAIN_MARGIN));
        expect(tokens[index].slice(0, certain)).toEqual(expected.slice(0, certain));
      });
    }
    const { plan: planned, new_tokens } = JSON.parse(readFileSync(report, 'utf8'));
    expect(new_tokens).toBe(STEPS * golden.input_ids.length);
    expect(planned.memory.some(({ tier }: { tier: string }) => tier === 'gpu')).toBe(true);
  });

  it('scores a text as the CPU does', async () => {
    const text = ['score', folder, '--text_file', textFile(), '--json'];
    const nll = async (...words: string[]) => JSON.parse(await run(...text, ...words)).nll as number;
    const expected = await nll('--device', 'cpu');
    expect(Math.abs((await nll('--compute_dtype', 'float32')) - expected) / expected).toBeLessThan(1e-3);
    expect(Math.abs((await nll()) - expected) / expected).toBeLessThan(MOST_LOST);
    const inCodes = await nll('--kv_dtype', 'int8');
    expect(Math.abs(inCodes - expected) / expected).toBeLessThan(MOST_LOST);
  });

  it('prints how fast it was', async () => {
    const shown = await run(
      'generate',
      folder,
      '-p',
      'A',
      '-n',
      '4',
      '--ignore_eos',
      '--benchmark',
      '--cycles',
      '2',
    );
    expect(shown).toMatch(/Throughput per token.*\n[\s\S]*decode: \d+ tokens/);
  });

  it('is planned for the GPU', async () => {
    expect(await run('plan', folder)).toMatch(/gpu +\d+/);
  });
});

describe.skipIf(!HAS_GPU).concurrent('commands on a GPU', () => {
  it('a conversation answers as its prompt is continued', async () => {
    const model = join(newFolder(), 'model');
    cpSync(fixtureFolder('llama'), model, { recursive: true });
    writeFileSync(join(model, 'chat_template.jinja'), '{% for m in messages %}{{ m.content }}{% endfor %}');
    const said = join(newFolder(), 'said');
    writeFileSync(said, 'To be, or not to be\n');
    const { stdout, status } = await runCli(['chat', model, '-n', '8'], { stdin: said });
    expect(status).toBe(0);
    expect(stdout).toBe(await run('generate', model, '-p', 'To be, or not to be', '-n', '8'));
  });

  it('the doctor finds the GPU, and what it saves can be planned for', async () => {
    const machine = join(newFolder(), 'machine.json');
    expect(await run('doctor', '--path', newFolder(), '--save', machine)).toMatch(/ok +CUDA/);
    expect(await run('plan', fixtureFolder('gpt_oss'), '--machine', machine)).toMatch(/gpu +\d+/);
  });
});
