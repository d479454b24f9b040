// `generate` as users run it, against the golden texts of a small trained model.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DEFAULT_PROMPTS } from '../../src/cli/generation/prompts.js';
import { runCli } from '../helpers/cli.js';
import { goldenOf, modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('shakespeare-bloom');
const GOLDEN = goldenOf('shakespeare-bloom');
const [PROMPT = ''] = GOLDEN.prompts;
const [TEXT = ''] = GOLDEN.texts ?? [];
const RULE = '-'.repeat(60);

function jsonLines(path: string) {
  const content = readFileSync(path, 'utf8');
  expect(content.endsWith('\n')).toBe(true);
  return content
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

describe.concurrent('generate', () => {
  it('streams the text of one prompt to stdout, and nothing else', async () => {
    const result = await runCli(['--name', MODEL, '--prompt', PROMPT, '--nvme_offload_path', MODEL]);
    expect(result.errors).toEqual([]);
    expect(result.status).toBe(0);
    expect(result.stdout).toBe(`${TEXT}\n`);
    expect(result.logs.at(-1)).toMatch(/9 stream from the drive.*read .* from the drive at .* in 100 passes/);
  });

  it('shows several prompts below each other, streamed or as a batch, the same', async () => {
    const prompts = GOLDEN.prompts.flatMap((prompt) => ['--prompt', prompt]);
    const layout = GOLDEN.prompts
      .map((prompt, index) => `${RULE}\nin=${prompt}\nout=${prompt}${GOLDEN.texts?.[index]}\n\n`)
      .join('');
    const [streamed, batch] = await Promise.all([
      runCli(['generate', '--name', MODEL, ...prompts]),
      runCli(['generate', '--name', MODEL, ...prompts, '--batch_size', '3', '--cpu_offload']),
    ]);
    expect(streamed.stdout).toBe(layout);
    expect(batch.stdout).toBe(layout);
  });

  it('takes as large a batch as there are prompts and memory, and says so', async () => {
    const prompts = GOLDEN.prompts.flatMap((prompt) => ['--prompt', prompt]);
    const few = ['--max_new_tokens', '8', '--max_context', '110', '--nvme_offload_path', MODEL];
    const auto = ['--name', MODEL, ...prompts, '--batch_size', 'auto', ...few];
    const roomy = await runCli(auto);
    const tight = await runCli([...auto, '--dram_memory', '4MiB']);
    const refused = await runCli([...auto, '--dram_memory', '1MiB']);
    expect(roomy.logs.join('\n')).toContain(`--batch_size auto is ${GOLDEN.prompts.length}; all there are`);
    const chosen = /--batch_size auto is (\d+); with one more, --dram_memory is 4.00 MiB/.exec(
      tight.logs.join('\n'),
    );
    expect(Number(chosen?.[1])).toBeLessThan(GOLDEN.prompts.length);
    expect(tight.stdout).toBe(roomy.stdout);
    expect(refused.status).toBe(6);
    expect(refused.errors.join()).toContain('--dram_memory is 1.00 MiB, but the smallest plan needs');
  });

  it('has room for as long texts as it is told, and refuses longer ones', async () => {
    const words = ['--name', MODEL, '--prompt', PROMPT, '--nvme_offload_path', MODEL];
    const roomy = await runCli([...words, '--max_context', '200']);
    expect(roomy.stdout).toBe(`${TEXT}\n`);
    const long = await runCli([...words, '--max_context', '50']);
    expect(long.status).toBe(7);
    expect(long.errors.join()).toMatch(/PROMPT_TOO_LONG: .* --max_context is 50/);
  });

  it('writes a JSON line per prompt, with texts or ids as prompts', async () => {
    const folder = newFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    const lines = GOLDEN.prompts.map((prompt, index) =>
      JSON.stringify(index % 2 === 0 ? { prompt } : { prompt_token_ids: GOLDEN.input_ids[index] }),
    );
    writeFileSync(input, lines.join('\n'));
    const args = ['--prompts_file', input, '--output', output, '--batch_size', '4', '--dram_memory', '10MiB'];
    const result = await runCli(['--name', MODEL, ...args]);
    expect(result.errors).toEqual([]);
    const records = jsonLines(output).sort((a, b) => a.index - b.index);
    expect(records).toEqual(
      GOLDEN.prompts.map((prompt, index) => ({
        index,
        prompt,
        text: GOLDEN.texts?.[index],
        token_ids: GOLDEN.greedy[index],
        finish_reason: 'length',
        prompt_tokens: GOLDEN.input_ids[index]?.length,
        new_tokens: 100,
      })),
    );
  });

  it('fills the batch with built-in prompts and shows each once', async () => {
    const result = await runCli(['--name', MODEL, '--batch_size', '9', '--max_new_tokens', '2']);
    expect(result.stdout.split(`${RULE}\n`)).toHaveLength(9);
    for (const prompt of DEFAULT_PROMPTS) expect(result.stdout).toContain(`in=${prompt}\nout=${prompt}`);
  });

  it('keeps the space with which a SentencePiece continuation begins', async () => {
    const { prompt, begins } = JSON.parse(
      readFileSync(join(modelFolder('stories260K'), 'expected.json'), 'utf8'),
    );
    const args = ['--prompt', prompt, '--max_new_tokens', '40'];
    const result = await runCli(['--name', modelFolder('stories260K'), ...args]);
    expect(begins.startsWith(prompt + result.stdout.trimEnd())).toBe(true);
    expect(result.stdout.startsWith(',')).toBe(true);
  });

  it('an empty prompt is the start token', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const args = ['--prompt', '', '--max_new_tokens', '1', '--output', output];
    const result = await runCli(['--name', MODEL, ...args]);
    expect(result.status).toBe(0);
    expect(jsonLines(output)[0]).toMatchObject({ prompt: '', prompt_tokens: 1 });
  });
});

describe.concurrent('benchmark and reports', () => {
  it('prints the block of the scripts that it replaces, with tokens and seconds of the same cycles', async () => {
    const folder = newFolder();
    const [report, trace] = [join(folder, 'report.json'), join(folder, 'trace.json')];
    const size = ['--batch_size', '3', '--prompt', 'ROMEO:', '--max_new_tokens', '4'];
    const files = ['--report', report, '--trace', trace];
    const args = [...size, ...files, '--benchmark', '--cycles', '2', '--nvme_offload_path', MODEL];
    const result = await runCli(['--name', MODEL, ...args]);
    expect(result.errors).toEqual([]);
    const block =
      /\*\*\* Performance stats:\nThroughput per token including tokenize: (\S+) msecs\nStart to ready to generate: (\S+) secs\nTokenize and generate 24 \(bs=3\) tokens: (\S+) secs\nStart to finish: (\S+) secs\n/;
    const [perTokenMs = 0, ready = 0, seconds = 0, finish = 0] =
      block.exec(result.stdout)?.slice(1).map(Number) ?? [];
    expect(perTokenMs).toBeCloseTo((seconds * 1e3) / 24, 0);
    expect(finish).toBeCloseTo(ready + seconds, 2);
    // Where others were busy while the limit was measured, the run was faster than it.
    const beside = /, the limit in this run\)|\(more than the .* that were measured in this run/;
    expect(/^nvme→dram \(drive\): .*$/m.exec(result.stdout)?.[0]).toMatch(beside);
    expect(result.stdout).toMatch(/^decode: 18 tokens in 6 passes/m);

    const figures = JSON.parse(readFileSync(report, 'utf8'));
    expect(figures).toMatchObject({ command: 'generate', batch_size: 3, new_tokens: 24, warmup_cycles: 1 });
    expect(figures.cycles).toHaveLength(2);
    expect(figures.seconds).toBeCloseTo(seconds, 2);
    expect(figures.ready_seconds).toBeCloseTo(ready, 2);
    const hop = figures.hops.find((one: { hop: string }) => one.hop === 'nvme→dram');
    expect(hop.limit_bytes_per_second).toBeGreaterThan(0);
    const ofLimit = hop.bytes_per_second / hop.limit_bytes_per_second;
    if (ofLimit > 1.05) expect(hop.of_limit).toBeNull();
    else expect(hop.of_limit).toBeCloseTo(Math.min(1, ofLimit), 6);
    expect(figures.compute.decode).toMatchObject({ passes: 6, tokens: 18 });
    expect(figures.compute.decode.limit_bytes_per_second).toBeGreaterThan(0);

    const { traceEvents } = JSON.parse(readFileSync(trace, 'utf8'));
    const rows = traceEvents.filter((event: { ph: string }) => event.ph === 'M');
    const names = rows.map((row: { args: { name: string } }) => row.args.name);
    expect(names).toEqual(expect.arrayContaining(['nvme→dram drive', 'compute cpu']));
  });

  it('fills the batch of every device, and counts the tokens of all', async () => {
    const report = join(newFolder(), 'report.html');
    const size = ['--batch_size', '2', '--virtual_devices', '3', '--max_new_tokens', '4', '--ignore_eos'];
    const result = await runCli([
      '--name',
      MODEL,
      ...size,
      '--benchmark',
      '--cycles',
      '1',
      '--report',
      report,
    ]);
    expect(result.errors).toEqual([]);
    const block =
      /Throughput per token including tokenize: (\S+) msecs[\s\S]*generate 24 \(bs=2\) tokens: (\S+) secs/;
    const [perTokenMs = 0, seconds = 0] = block.exec(result.stdout)?.slice(1).map(Number) ?? [];
    expect(perTokenMs).toBeCloseTo((seconds * 1e3) / 24, 0);
    const drawn = readFileSync(report, 'utf8');
    const figures = JSON.parse(/id="figures">(.*)<\/script>/.exec(drawn)?.[1] ?? '');
    expect(figures).toMatchObject({ batch_size: 2, streams: 3, new_tokens: 24, prompts: 6 });
    expect(figures.compute.decode).toMatchObject({ passes: 3, tokens: 18 });
    const layers: { tier: string | null; compute_seconds: number }[] = figures.layers;
    expect(layers.filter(({ tier }) => tier !== null).every((layer) => layer.compute_seconds > 0)).toBe(true);
    const gathers = figures.hops.filter(({ hop }: { hop: string }) => hop === 'gather');
    expect(gathers.map(({ owner }: { owner: string }) => owner).sort()).toEqual(['cpu:0', 'cpu:1', 'cpu:2']);
  });

  it('makes random weights for a shape once, and takes and prints token ids', async () => {
    const cache = newFolder();
    const shape = join(cache, 'tiny.json');
    const { dtype: _, ...config } = JSON.parse(
      readFileSync(join(modelFolder('llama'), 'config.json'), 'utf8'),
    );
    writeFileSync(shape, JSON.stringify(config));
    const args = ['--name', shape, '--dummy_weights', '--max_new_tokens', '3', '--dtype', 'float16'];
    const first = await runCli(args, { env: { XDG_CACHE_HOME: cache } });
    const again = await runCli(args, { env: { XDG_CACHE_HOME: cache } });
    expect(first.errors).toEqual([]);
    expect(first.logs.join()).toMatch(/writing random weights to .*tiny-float16-[0-9a-f]{8}/);
    expect(again.logs.join()).not.toMatch(/writing random weights/);
    expect(first.stdout).toMatch(/^-{60}\nin=[\d ]+\nout=[\d ]+\n\n$/);
    expect(again.stdout).toBe(first.stdout);
  });

  it.each([
    ['fp8', 'fp8 in blocks of 128×128, f32 scales'],
    ['mxfp4', 'mxfp4 in groups of 32, e8m0 scales'],
    ['int8', 'int8 in groups of 64, bf16 scales'],
    ['int4', 'int4 in groups of 64, bf16 scales'],
  ])(
    'makes random weights in %s, experts among them, and says in which format they are',
    async (type, format) => {
      const cache = newFolder();
      const [shape, report] = [join(cache, 'tiny.json'), join(cache, 'report.json')];
      const config = JSON.parse(readFileSync(join(modelFolder('mixtral'), 'config.json'), 'utf8'));
      // Rows of no whole number of blocks, and of several groups; most bytes are those of experts.
      writeFileSync(
        shape,
        JSON.stringify({
          ...config,
          hidden_size: 192,
          head_dim: 48,
          intermediate_size: 160,
          num_local_experts: 24,
        }),
      );
      const words = ['--name', shape, '--dummy_weights', '--dtype', type, '--max_new_tokens', '3'];
      const { status, errors, stdout } = await runCli([...words, '--report', report], {
        env: { XDG_CACHE_HOME: cache },
      });
      expect(errors).toEqual([]);
      expect(status).toBe(0);
      expect(stdout).toMatch(/^-{60}\nin=[\d ]+\nout=[\d ]+\n\n$/);
      expect(JSON.parse(readFileSync(report, 'utf8')).model).toMatchObject({ stored_as: format });
    },
  );
});
