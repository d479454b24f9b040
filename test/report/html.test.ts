// A report's page would need what is not in it, run what a model's name says, or draw other figures than its JSON has.

import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { formatOf, layerOf, type Plan, Trace } from '../../offload/index.js';
import { checkReplaceable, REPORT } from '../../src/files/output-file.js';
import { outputTarget } from '../../src/files/output-target.js';
import { isPage, reportPage } from '../../src/report/html.js';
import { Meter } from '../../src/report/meter.js';
import { PassSeries } from '../../src/report/pass-series.js';
import { reportFigures } from '../../src/report/report.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NAME = '</script><script>alert(1)</script>"\'';

function plan(): Plan {
  const matrix = {
    key: 'w',
    format: formatOf('dense', 'bf16', {}),
    shape: [8, 8] as const,
    firstRow: 0,
    parts: {
      codes: {
        key: 'w',
        dtype: 'bf16' as const,
        shape: [8, 8],
        extent: { fileIndex: 0, fileOffset: 0, sizeBytes: 128 },
      },
    },
  };
  const layers = ['nvme', 'dram'].map((tier, index) => ({
    tier,
    layout: { layer: { ...layerOf('block', [matrix]), name: `block ${index}` } },
  }));
  return {
    layers,
    blockFlopsPerToken: 10,
    hostBuffers: { count: 2, sizeBytes: 256 },
    kvBuffers: { count: 0, sizeBytes: 0 },
    deviceBuffers: { count: 0, sizeBytes: 0 },
    deviceCount: 1,
    transfer: { kind: 'whole', by: 'none', reason: 'in place' },
    kvType: 'f32',
    activationType: 'f32',
    terms: [{ tier: 'dram', name: 'logits', bytes: 64, reason: 'a < b' }],
  } as unknown as Plan;
}

function page(): { html: string; figures: ReturnType<typeof reportFigures> } {
  const trace = new Trace(false);
  const meter = new Meter(trace, plan());
  for (const pass of [0, 1, 2]) {
    const at = pass * 100;
    trace.add({
      lane: 'nvme→dram',
      owner: 'drive',
      name: 'block 0',
      startMs: at,
      endMs: at + 40,
      bytes: 128,
    });
    trace.add({ lane: 'compute', owner: 'cpu', name: 'block 0', startMs: at + 40, endMs: at + 60, bytes: 0 });
    trace.add({ lane: 'compute', owner: 'cpu', name: 'block 1', startMs: at + 60, endMs: at + 90, bytes: 0 });
    trace.addComputeStall(15, 'block 0');
    meter.pass({ phase: 'decode', tokens: 2, microBatches: 1 });
  }
  const model = { name: NAME, folder: '/m', architecture: 'bloom', blocks: 2, weight_bytes: 256 };
  const limits = { driveBytesPerSecond: 6400, memoryBytesPerSecond: undefined, flopsPerSecond: undefined };
  const context = {
    command: 'generate',
    model,
    plan: plan(),
    meter,
    limits,
    notes: ['a & b'],
    readySeconds: 1,
  };
  const figures = reportFigures(context, { new_tokens: 6, seconds: 0.3 });
  return { html: reportPage(figures, meter.series, new Date(0)), figures };
}

describe('a report as a page', () => {
  it('is asked for by its name', () => {
    expect(['run.html', 'RUN.HTM', 'run.json', 'html'].map(isPage)).toEqual([true, true, false, false]);
  });

  it('has the same figures as JSON, whatever the names in it are', () => {
    const { html, figures } = page();
    const [, json = ''] = /<script type="application\/json" id="figures">(.*)<\/script>/.exec(html) ?? [];
    expect(JSON.parse(json)).toEqual(JSON.parse(JSON.stringify(figures)));
    expect(html.match(/<script/g)).toHaveLength(1);
    expect(html).toContain('&lt;/script&gt;');
    expect(html).toContain('a &lt; b');
    expect(html).toContain('a &amp; b');
  });

  it('runs no script, names nothing elsewhere, and allows its own style alone', () => {
    const { html } = page();
    const [, style = ''] = /<style>([\s\S]*)<\/style>/.exec(html) ?? [];
    const hash = createHash('sha256').update(style).digest('base64');
    expect(html).toContain(`default-src 'none'; style-src 'sha256-${hash}'`);
    const drawn = html.replace(/<script type="application\/json"[\s\S]*<\/script>/, '');
    expect(drawn).not.toMatch(/\b(?:src|href|style|on\w+)=|https?:|url\(|@import/);
  });

  it('takes the place of an earlier one, and of no other page', () => {
    const path = join(tempFolder(), 'run.html');
    writeFileSync(path, page().html);
    expect(() => checkReplaceable(outputTarget(path), '--report', REPORT)).not.toThrow();
    writeFileSync(path, '<!doctype html><title>mine</title>');
    expect(() => checkReplaceable(outputTarget(path), '--report', REPORT)).toThrow(/is not a report/);
  });

  it('says what became of each layer', () => {
    const { html, figures } = page();
    expect(figures.layers).toEqual([
      {
        layer: 'block 0',
        tier: 'nvme',
        drive_bytes: 384,
        drive_seconds: 0.12,
        link_bytes: 0,
        link_seconds: 0,
        compute_seconds: 0.06,
        stall_seconds: 0.045,
      },
      {
        layer: 'block 1',
        tier: 'dram',
        drive_bytes: 0,
        drive_seconds: 0,
        link_bytes: 0,
        link_seconds: 0,
        compute_seconds: 0.09,
        stall_seconds: 0,
      },
    ]);
    // 128 bytes in 40 ms, beside a limit of 6400 a second.
    expect(html).toContain('50 % of 6.40 kB/s');
    expect(html).toMatch(/<td>block 0<\/td><td>nvme<\/td><td>384 B<\/td><td>120 ms<\/td>/);
  });
});

describe('a series of passes', () => {
  it('keeps every token of a long run in few pieces, in order', () => {
    const series = new PassSeries();
    const nothing = { seconds: 1, computeSeconds: 0, stallSeconds: 0, driveBytes: 0, linkBytes: 0 };
    for (let pass = 0; pass < 5000; pass++) series.add({ passes: 1, tokens: pass, ...nothing });
    const { pieces } = series;
    expect(pieces.length).toBeLessThanOrEqual(480);
    expect(pieces.reduce((sum, { tokens }) => sum + tokens, 0)).toBe((5000 * 4999) / 2);
    expect(pieces.reduce((sum, { passes }) => sum + passes, 0)).toBe(5000);
    const rates = pieces.map(({ tokens, passes }) => tokens / passes);
    expect([...rates].sort((a, b) => a - b)).toEqual(rates);
  });
});
