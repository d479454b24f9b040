// `plan`: tables and JSON, shapes on described machines, refusals that say what to change, no weights read; as a process and without.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { FakeHub } from '../helpers/hub-server.js';
import { planHere } from '../helpers/plan-command.js';
import { tempFolder } from '../helpers/temp-folder.js';

const CONFIGS = fileURLToPath(new URL('../../configs', import.meta.url));
const LAPTOP = ['--machine', join(CONFIGS, 'machines/laptop.json')];
const shape = (name: string) => ['--name', join(CONFIGS, `models/${name}.json`)];

test('a shape on a described machine, as tables', async () => {
  const { status, stdout, errors } = await runCli([
    'plan',
    ...shape('llama-3-8b'),
    ...LAPTOP,
    '--batch_size',
    '4',
  ]);
  expect(errors).toEqual([]);
  expect(status).toBe(0);
  expect(stdout).toContain('8,030,261,248 parameters');
  expect(stdout).toMatch(/^ {2}block {3}0 {2}[#.]{32}$/m);
  expect(stdout).toMatch(/^dram +key-value cache +\S+ \w+ +4 sequences/m);
  expect(stdout).toMatch(/^decode step +4 .*the drive$/m);
  expect(stdout).toMatch(/^Largest batch: \d+: /m);
});

test('keys and values in fewer bits take less, and more texts fit', async () => {
  const words = [
    'plan',
    ...shape('opt-6.7b'),
    '--prompt_tokens',
    '512',
    '--cpu_offload',
    '--json',
    '--batch_size',
    'auto',
  ];
  const gpu = ['--machine', join(CONFIGS, 'machines/h100-x1.json'), '--gpu_memory', '8GiB'];
  const planned = async (type: string) =>
    JSON.parse((await planHere([...words, ...gpu, '--kv_dtype', type])).stdout);
  const [exact, int8, int4] = [await planned('auto'), await planned('int8'), await planned('int4')];
  const perText = ({ memory, workload }: typeof exact) =>
    memory.find(({ name }: { name: string }) => name === 'key-value cache').bytes / workload.batch_size;
  expect([exact, int8, int4].map(({ key_values }) => key_values.dtype)).toEqual(['float16', 'int8', 'int4']);
  // 128 values of a head: 2 bytes each; a byte each and a scale of 2; half a byte each and four scales.
  expect(perText(int8) / perText(exact)).toBeCloseTo((128 + 2) / 256, 6);
  expect(perText(int4) / perText(exact)).toBeCloseTo((64 + 8) / 256, 6);
  expect(int8.workload.batch_size).toBeGreaterThan(exact.workload.batch_size);
  expect(int4.largest_batch.batch_size).toBeGreaterThan(1.5 * int8.largest_batch.batch_size);
  expect(int8.placement).toMatch(/keys and values rest in (DRAM in )?int8/);
  const reason = int8.memory.find(({ name }: { name: string }) => name === 'key-value cache').reason;
  expect(reason).toMatch(/a page in all blocks, int8 \(260 KiB a token\)/);
});

test('the largest batch as the batch, with what keeps one more out', async () => {
  const words = [
    'plan',
    ...shape('opt-6.7b'),
    '--prompt_tokens',
    '512',
    '--gpu_memory',
    '4GiB',
    '--cpu_offload',
  ];
  const gpu = ['--machine', join(CONFIGS, 'machines/h100-x1.json'), '--json'];
  const auto = JSON.parse((await planHere([...words, ...gpu, '--batch_size', 'auto'])).stdout);
  expect(auto.workload.batch_size).toBe(auto.largest_batch.batch_size);
  expect(auto.largest_batch.refusal).toMatch(/^(--gpu_memory|what may be used of the memory) .*key-value/);
  // More than the GPU alone could hold.
  expect(auto.key_values.tier).toBe('dram');
  const gpuBytes = auto.memory.reduce(
    (sum: number, term: { tier: string; bytes: number }) => sum + (term.tier === 'gpu' ? term.bytes : 0),
    0,
  );
  expect(gpuBytes).toBeLessThanOrEqual(4 * 1024 ** 3);
  const more = await planHere([...words, ...gpu, '--batch_size', String(auto.workload.batch_size + 1)]);
  expect(more.status).toBe(6);
  const none = await planHere([...words.slice(0, -2), '300MiB', ...gpu, '--batch_size', 'auto']);
  expect(none.status).toBe(6);
  expect(none.errors.join()).toContain('--gpu_memory is 300 MiB, but the smallest plan needs');
});

test('a batch that is chosen moves no layer to the drive, though a larger one would fit', async () => {
  const gpu = ['--machine', join(CONFIGS, 'machines/h100-x1.json'), '--gpu_memory', '16GiB', '--json'];
  const words = ['plan', ...shape('opt-30b'), '--prompt_tokens', '512', '--max_new_tokens', '32', ...gpu];
  const plan = async (batch: string) =>
    JSON.parse((await planHere([...words, '--batch_size', batch])).stdout);
  const auto = await plan('auto');
  const { batch_size: chosen } = auto.workload;
  expect(auto.tiers.nvme_bytes).toBe(0);
  expect(auto.workload.auto_batch_refusal).toMatch(/^\d+ of 49 layers would have to rest on the drive$/);
  expect(auto.largest_batch.batch_size).toBeGreaterThan(chosen);
  const more = await plan(String(chosen + 1));
  expect(more.tiers.nvme_bytes).toBeGreaterThan(0);
  const rate = ({ workload, predicted }: typeof auto) => workload.batch_size / predicted.decode_step.total_ms;
  const largest = await plan(String(auto.largest_batch.batch_size));
  expect(rate(auto)).toBeGreaterThan(rate(largest));
});

test('as JSON, whose bytes add up', async () => {
  const { stdout } = await runCli(['plan', ...shape('llama-3-8b'), ...LAPTOP, '--json']);
  const plan = JSON.parse(stdout);
  const bytes = plan.layers.reduce((sum: number, layer: { bytes: number }) => sum + layer.bytes, 0);
  expect(plan.tiers.dram_bytes + plan.tiers.nvme_bytes).toBe(bytes);
  expect(plan.predicted.decode_step.total_ms).toBeGreaterThan(plan.predicted.decode_step.compute_ms);
  expect(plan.predicted.decode_step.bound).toBe('drive');
  expect(plan.largest_batch.batch_size).toBeGreaterThan(1);
  expect(plan.memory.every(({ reason }: { reason: string }) => reason.length > 0)).toBe(true);
});

test('everything that fits streams nothing, and the drive bounds nothing', async () => {
  const words = ['plan', ...shape('bloom-560m'), ...LAPTOP, '--cpu_offload', '--json'];
  const plan = JSON.parse((await planHere(words)).stdout);
  expect(plan.tiers.nvme_bytes).toBe(0);
  expect(plan.predicted.decode_step.drive_ms).toBe(0);
  expect(plan.predicted.decode_step.bound).toBe('memory');
});

test('what cannot fit is refused with what to change', async () => {
  const whole = await runCli(['plan', ...shape('bloom-176b'), ...LAPTOP, '--cpu_offload']);
  expect(whole.status).toBe(6);
  expect(whole.errors.join()).toMatch(
    /DOES_NOT_FIT: .* use --nvme_offload_path DIR instead of --cpu_offload/,
  );
  const batch = await runCli(['plan', ...shape('llama-3-8b'), ...LAPTOP, '--batch_size', '5000']);
  expect(batch.status).toBe(6);
  expect(batch.errors.join()).toMatch(/lower --batch_size; the largest batch that fits is \d+/);
});

test('a checkpoint whose weights cannot be read is planned all the same', async () => {
  const folder = tempFolder();
  const from = modelFolder('shakespeare-bloom');
  for (const name of readdirSync(from)) {
    const bytes = readFileSync(join(from, name));
    // Right header and length, but no weight has its value.
    const header = name.endsWith('.safetensors') ? 8 + Number(bytes.readBigUInt64LE(0)) : bytes.length;
    writeFileSync(join(folder, name), bytes.fill(0xff, header));
  }
  const words = ['plan', '--name', folder, ...LAPTOP, '--json'];
  const broken = JSON.parse((await planHere(words)).stdout);
  const whole = JSON.parse((await planHere(['plan', '--name', from, ...LAPTOP, '--json'])).stdout);
  expect(broken.layers).toEqual(whole.layers);
});

test('a model of the hub is planned without downloading its weights', async () => {
  const from = modelFolder('shakespeare-bloom');
  const hub = await FakeHub.start(
    Object.fromEntries(readdirSync(from).map((name) => [name, readFileSync(join(from, name))])),
  );
  onTestFinished(() => hub.stop());
  const cache = tempFolder();
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache, HF_HOME: cache, HF_HUB_OFFLINE: '' };
  const { status, stdout } = await runCli(['plan', '--name', 'org/model', ...LAPTOP, '--json'], { env });
  expect(status).toBe(0);
  expect(JSON.parse(stdout).layers.length).toBeGreaterThan(1);
  expect(hub.downloads('model.safetensors')).toEqual([]);
});

test('a DeepSpeed file says how, and its other keys are named', async () => {
  const folder = tempFolder();
  mkdirSync(folder, { recursive: true });
  const file = join(folder, 'ds.json');
  const offload = { device: 'nvme', nvme_path: folder, buffer_count: 3 };
  writeFileSync(
    file,
    JSON.stringify({ zero_optimization: { stage: 3, offload_param: offload, overlap_comm: true } }),
  );
  const words = ['plan', ...shape('llama-0.85b'), ...LAPTOP, '--ds_config', file, '--json'];
  const { stdout, logs } = await runCli(words);
  expect(JSON.parse(stdout)).toMatchObject({ tiers: { dram_bytes: 0 }, host_buffers: { count: 3 } });
  expect(logs.filter((line) => line.includes('cannot apply'))).toEqual([
    expect.stringContaining('zero_optimization.overlap_comm'),
  ]);
});

const TWO_GPUS = ['--machine', join(CONFIGS, 'machines/h100-x2.json')];

test('GPUs that are asked for: how many, and how layers reach them', async () => {
  const planned = async (...words: string[]) => {
    const { stdout, errors } = await planHere([
      'plan',
      ...shape('opt-6.7b'),
      ...TWO_GPUS,
      '--cpu_offload',
      ...words,
      '--json',
    ]);
    expect(errors).toEqual([]);
    return JSON.parse(stdout);
  };
  const [all, two, one] = [
    await planned(),
    await planned('--num_gpus', '2'),
    await planned('--num_gpus', '1'),
  ];
  expect(two).toEqual(all);
  expect(two).toMatchObject({ devices: 2, transfer: { kind: 'shards', by: 'peer' } });
  expect(two.placement).toContain(two.transfer.reason);
  expect(one).toMatchObject({ devices: 1, transfer: { kind: 'whole', by: 'none' } });
  expect(one.placement).not.toContain(one.transfer.reason);
  const linkMs = (plan: typeof one) => plan.predicted.decode_step.link_ms as number;
  expect(linkMs(two)).toBeLessThan(0.7 * linkMs(one));
  const whole = await planned('--gather', 'none');
  expect(whole.transfer).toMatchObject({ kind: 'whole', by: 'none' });
  expect(linkMs(whole)).toBeCloseTo(linkMs(one), 6);
  // Whole layers need no buffer that is being gathered, where layers that rest want its memory.
  const [gathered, pulled] = [
    await planned('--gpu_resident', '4'),
    await planned('--gpu_resident', '4', '--gather', 'none'),
  ];
  expect(gathered.device_buffers.count).toBe(pulled.device_buffers.count + 1);
  const text = await planHere([
    'plan',
    ...shape('opt-6.7b'),
    ...TWO_GPUS,
    '--cpu_offload',
    '--num_gpus',
    '2',
  ]);
  expect(text.stdout).toMatch(/^on two H100.*, 2 × \S+ GiB behind \S+ GB\/s, \S+ GB\/s between them$/m);
  expect(text.stdout).toMatch(/each of 2 devices pulls 1\/2 of a layer .* by peer copies/);
});

test('what other weights would change, for weights that are plain, and what those are that are not', async () => {
  const words = ['--batch_size', '8', '--machine', join(CONFIGS, 'machines/h100-x1.json')];
  const plain = await planHere(['plan', ...shape('bloom-176b'), ...words]);
  expect(plain.errors).toEqual([]);
  expect(plain.stdout).toMatch(/^block +70 +bf16 +16\.00 +4\.59 GiB +322 GiB$/m);
  expect(plain.stdout).toMatch(/^bf16, as now +328 GiB +\S+ GiB +\S+ GiB +\S+ GiB +\S+ s /m);
  expect(plain.stdout).toMatch(/^int8 +173 GiB /m);
  // With four bits nothing is left to the drive.
  expect(plain.stdout).toMatch(/^int4 +92\.1 GiB +\S+ GiB +\S+ GiB +0 B +0\.0 ms /m);
  const stored = await planHere(['plan', ...shape('bloom-176b'), ...words, '--dtype', 'int8', '--json']);
  const { stored_weights, other_weights, predicted } = JSON.parse(stored.stdout);
  expect(stored_weights.find(({ kind }: { kind: string }) => kind === 'block')).toMatchObject({
    count: 70,
    formats: ['int8 in groups of 64, bf16 scales'],
    bits_per_weight: 8.25,
  });
  expect(other_weights).toEqual([]);
  const json = JSON.parse((await planHere(['plan', ...shape('bloom-176b'), ...words, '--json'])).stdout);
  const int8 = json.other_weights.find(({ name }: { name: string }) => name === 'int8');
  expect(int8.decode_step).toEqual(predicted.decode_step);
});

test('more GPUs than the machine has, or GPUs of a machine without', async () => {
  const refused = async (words: readonly string[]) => {
    const { status, errors } = await planHere(['plan', ...shape('llama-0.85b'), ...words]);
    expect(status).toBe(2);
    return errors.join();
  };
  expect(await refused([...TWO_GPUS, '--num_gpus', '3'])).toMatch(/describes 2 GPUs: give at most 2/);
  expect(await refused([...LAPTOP, '--num_gpus', '2'])).toMatch(/describes a machine without GPUs/);
});

test('a machine that is none', async () => {
  const missing = await runCli(['plan', ...shape('llama-0.85b'), '--machine', '/nowhere.json']);
  expect(missing.status).toBe(3);
  expect(missing.errors.join()).toMatch(/NOT_FOUND: --machine is \/nowhere.json/);
  const wrong = await runCli([
    'plan',
    ...shape('llama-0.85b'),
    '--machine',
    join(CONFIGS, 'models/llama-4b.json'),
  ]);
  expect(wrong.status).toBe(4);
  expect(wrong.errors.join()).toMatch(/BAD_CONFIG: .* describes no machine/);
});
