// `score` as users run it, against the golden likelihood.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { goldenOf, modelFolder, shakespeareText } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('shakespeare-bloom');

describe.concurrent('score', () => {
  it('prints exactly one JSON object with the golden likelihood, wherever the weights rest', async () => {
    const golden = goldenOf('shakespeare-bloom');
    const ids = join(newFolder(), 'ids.json');
    writeFileSync(ids, JSON.stringify(golden.nll_ids));
    const args = ['score', '--name', MODEL, '--token_ids', ids, '--json'];
    const [drive, dram, devices] = await Promise.all([
      runCli([...args, '--nvme_offload_path', MODEL]),
      runCli([...args, '--cpu_offload']),
      runCli([...args, '--virtual_devices', '2']),
    ]);
    expect(drive.stdout).toMatch(/^\{"nll": \S+, "perplexity": \S+, "tokens": 511\}\n$/);
    expect(dram.stdout).toBe(drive.stdout);
    expect(devices.stdout).toBe(drive.stdout);
    const { nll, perplexity } = JSON.parse(drive.stdout);
    expect(nll).toBeCloseTo(golden.nll, 4);
    expect(perplexity).toBeCloseTo(Math.exp(golden.nll), 2);
  });

  it('shows what keys and values in fewer bits cost', async () => {
    const golden = goldenOf('shakespeare-bloom');
    const folder = newFolder();
    const [ids, report] = [join(folder, 'ids.json'), join(folder, 'report.json')];
    writeFileSync(ids, JSON.stringify(golden.nll_ids));
    const args = ['score', '--name', MODEL, '--token_ids', ids, '--json', '--report', report];
    const lost = new Map<string, number>();
    for (const type of ['int8', 'int4']) {
      const { stdout, errors } = await runCli([...args, '--kv_dtype', type]);
      expect(errors).toEqual([]);
      lost.set(type, Math.abs(JSON.parse(stdout).nll / golden.nll - 1));
      const { plan } = JSON.parse(readFileSync(report, 'utf8'));
      expect(plan.kv_dtype).toBe(type);
      expect(plan.placement).toMatch(new RegExp(`keys and values rest in ${type}`));
    }
    expect(lost.get('int8')).toBeLessThan(1e-3);
    expect(lost.get('int4')).toBeLessThan(2e-2);
    expect(lost.get('int4')).toBeGreaterThan(lost.get('int8') ?? 0);
  });

  it('scores text in windows, each token but the first once, and writes a report', async () => {
    const folder = newFolder();
    const [text, report] = [join(folder, 'text.txt'), join(folder, 'report.json')];
    writeFileSync(text, shakespeareText().slice(0, 2000));
    const args = ['--text_file', text, '--context', '64', '--batch_size', '3', '--report', report];
    const result = await runCli(['score', '--name', MODEL, ...args]);
    expect(result.errors).toEqual([]);
    const [, tokens] = /perplexity \S+, (\d+) tokens\n$/.exec(result.stdout) ?? [];
    const figures = JSON.parse(readFileSync(report, 'utf8'));
    expect(figures).toMatchObject({ command: 'score', context: 64, tokens: Number(tokens) });
    expect(figures.compute.score.tokens).toBe(Number(tokens));
  });
});
