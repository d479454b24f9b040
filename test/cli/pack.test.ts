// `pack` as a process: what it prints, what a killed one leaves, and what `cache` knows of weights that were packed at first use.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { writeDummyCheckpoint } from '../../src/dummy/weights.js';
import { buildArchitecture, tensorList } from '../../src/models/registry.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder, shakespeareText } from '../helpers/fixtures.js';
import { packFolder } from '../helpers/pack-fixture.js';
import { tempFolder } from '../helpers/temp-folder.js';

const SOURCE = modelFolder('shakespeare-bloom');
const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));

it('prints what was lost in each layer and in all', async () => {
  const store = join(tempFolder(), 'store');
  const args = ['pack', '--name', SOURCE, '--output', store, '--weights', 'int4', '--gpus', '2'];
  const { status, stdout, errors } = await runCli(args);
  expect([status, errors]).toEqual([0, []]);
  expect(stdout).toMatch(/^block 0 +869 KiB +\d+ KiB +9\.\d+ % +0\.0\d+$/m);
  expect(stdout).toMatch(/^all .* 9\.\d+ % /m);
  expect(stdout).toMatch(/int4 \(compressed-tensors pack-quantized, a scale per 64 inputs\)/);
  expect(stdout).toMatch(
    /each block in 2 files .* has 0 % more .* of all blocks, and up to \d+ % more of a single one/,
  );
  const again = await runCli(args);
  expect([again.status, again.errors.join()]).toEqual([8, expect.stringMatching(/WRITE_FAILED: .* exists/)]);
});

it('prints the same as JSON', async () => {
  const store = join(tempFolder(), 'store');
  const { stdout } = await runCli(['pack', SOURCE, '-o', store, '--weights', 'fp8', '--json']);
  const { layers, all, weights, group_size, nll_before } = JSON.parse(stdout);
  expect(layers).toHaveLength(9);
  expect([weights, group_size, nll_before]).toEqual(['fp8', 'channel', null]);
  expect(all.relative_loss).toBeCloseTo(0.026, 3);
});

/** Some 100 MB, so that a process can be met in the middle. */
async function largerCheckpoint(): Promise<string> {
  const folder = join(tempFolder(), 'source');
  const config = {
    model_type: 'llama',
    hidden_size: 1024,
    intermediate_size: 2048,
    num_hidden_layers: 6,
    num_attention_heads: 8,
    vocab_size: 64,
  };
  const tensors = tensorList(buildArchitecture(config, 'config.json')).map((tensor) => ({
    ...tensor,
    dtype: 'BF16' as const,
  }));
  await writeDummyCheckpoint({ config, tensors, folder, seed: 1 });
  return folder;
}

function wholeFiles(folder: string): string[] {
  try {
    const record = JSON.parse(readFileSync(join(folder, 'zero-inference-pack.json'), 'utf8'));
    return record.files.map(({ name }: { name: string }) => name);
  } catch {
    return [];
  }
}

it('goes on after it was killed', async () => {
  const source = await largerCheckpoint();
  const store = join(tempFolder(), 'store');
  const args = ['pack', '--name', source, '--output', store, '--weights', 'int4'];
  const child = spawn(process.execPath, [MAIN, ...args, '--threads', '1'], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  while (wholeFiles(`${store}.partial`).length === 0 && child.exitCode === null) await sleep(3);
  child.kill('SIGKILL');
  await ended;
  const whole = wholeFiles(`${store}.partial`);
  expect(whole.length).toBeGreaterThan(0);
  expect(existsSync(store)).toBe(false);
  const times = whole.map((name) => statSync(join(`${store}.partial`, name)).mtimeMs);
  const { status, logs } = await runCli(args);
  expect([status, logs.join()]).toEqual([0, expect.stringMatching(/going on in .*\d of 7 files are whole/)]);
  expect(whole.map((name) => statSync(join(store, name)).mtimeMs)).toEqual(times);
  expect(readdirSync(dirname(store))).toEqual(['store']);
  const other = join(tempFolder(), 'other');
  await packFolder(source, other);
  for (const name of readdirSync(other).filter((file) => file.endsWith('.safetensors')))
    expect([name, readFileSync(join(store, name)).equals(readFileSync(join(other, name)))]).toEqual([
      name,
      true,
    ]);
});

it('scores a text before and after', async () => {
  const folder = tempFolder();
  const [store, text] = [join(folder, 'store'), join(folder, 'text')];
  writeFileSync(text, shakespeareText().slice(0, 3000));
  const args = ['pack', SOURCE, '-o', store, '--weights', 'int8', '--text_file', text, '--json'];
  const { stdout, errors } = await runCli(args);
  expect(errors).toEqual([]);
  const { nll_before: before, nll_after: after } = JSON.parse(stdout);
  expect(before).toBeGreaterThan(2);
  expect(after).not.toBe(before);
  expect(after / before).toBeLessThan(1.001);
});

it('packs at the first use of --dtype, once for processes that begin together, and finds it again', async () => {
  const env = { XDG_CACHE_HOME: tempFolder(), HF_HOME: tempFolder() };
  const args = ['generate', SOURCE, '-p', 'ROMEO:', '-n', '8', '--dtype', 'int4', '--cpu_offload'];
  const together = await Promise.all([runCli(args, { env }), runCli(args, { env })]);
  const place = join(env.XDG_CACHE_HOME, 'zero-inference', 'packed');
  const [name = '', ...others] = readdirSync(place);
  expect([name, others]).toEqual([expect.stringMatching(/^shakespeare-bloom-int4-[0-9a-f]{8}$/), []]);
  const { mtimeMs } = statSync(join(place, name, 'rest.safetensors'));
  const again = await runCli(['generate', join(place, name), ...args.slice(2, -3)], { env });
  const found = await runCli(args, { env });
  for (const { status, errors } of [...together, again, found]) expect([status, errors]).toEqual([0, []]);
  expect(new Set([...together, again, found].map(({ stdout }) => stdout)).size).toBe(1);
  expect(statSync(join(place, name, 'rest.safetensors')).mtimeMs).toBe(mtimeMs);
});

it('leaves weights to `cache` that were packed at first use', async () => {
  const cache = tempFolder();
  const place = join(cache, 'zero-inference', 'packed');
  mkdirSync(place, { recursive: true });
  await packFolder(SOURCE, join(place, 'shakespeare-int4-01234567'));
  cpSync(join(place, 'shakespeare-int4-01234567'), join(place, 'shakespeare-int8-76543210.partial'), {
    recursive: true,
  });
  mkdirSync(join(place, 'thesis'));
  const env = { XDG_CACHE_HOME: cache, HF_HOME: tempFolder() };
  const { stdout } = await runCli(['cache'], { env });
  expect(stdout).toMatch(/Packed weights\n {2}shakespeare-int4-01234567 /);
  expect(stdout).toMatch(/shakespeare-int8-76543210\.partial .* half written/);
  expect(stdout).not.toMatch(/thesis/);
  const { status } = await runCli(['cache', 'remove', 'shakespeare-int4-01234567', '--yes'], { env });
  expect([status, readdirSync(place).sort()]).toEqual([0, ['shakespeare-int8-76543210.partial', 'thesis']]);
});
