// A run's figures as one page: drawn without a script, nothing loaded from elsewhere, and the same figures as JSON within.

import { createHash } from 'node:crypto';
import { LOOK } from '../drawing/look.js';
import { few, whole } from '../drawing/numbers.js';
import { escaped } from '../drawing/shapes.js';
import { REPORT_MARK } from '../files/output-file.js';
import {
  hopsSection,
  layersSection,
  memorySection,
  notesSection,
  overTimeSection,
  timeSection,
} from './html-sections.js';
import type { SeriesPiece } from './pass-series.js';
import type { ReportFigures } from './report.js';

const PAGE = `
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; display: grid; gap: 1rem; }
header p { margin: 0.25rem 0 0; }
.figures { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 0; }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 0.75rem 0.9rem; }
.figures dt { font-size: 0.8rem; color: var(--quiet); }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums; }
@media print { body { background: none; } .card, .figures div { break-inside: avoid; } }
`;

/** Whether a report of that name is a page, and not JSON. */
export function isPage(path: string): boolean {
  return /\.html?$/i.test(path);
}

export function reportPage(figures: ReportFigures, series: readonly SeriesPiece[], when: Date): string {
  const style = LOOK + PAGE;
  const hash = createHash('sha256').update(style).digest('base64');
  const policy = `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
  const name = escaped(figures.model.name);
  const sections = [
    timeSection(figures),
    hopsSection(figures),
    overTimeSection(series),
    layersSection(figures),
    memorySection(figures),
    notesSection(figures),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
${REPORT_MARK}
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${name} · ${escaped(figures.command)} · zero-inference</title>
<style>${style}</style>
</head>
<body>
<main>
<header>
<h1>${name}</h1>
<p class="quiet">${escaped(about(figures))} · ${when.toISOString().slice(0, 16).replace('T', ' ')} UTC</p>
</header>
${keyFigures(figures)}
${sections.join('\n')}
</main>
<script type="application/json" id="figures">${JSON.stringify(figures).replaceAll('<', '\\u003c')}</script>
</body>
</html>
`;
}

function about({ command, model, plan }: ReportFigures): string {
  const devices = plan.devices === 1 ? '1 device' : `${plan.devices} devices`;
  return `zero-inference ${command} · ${model.architecture} · ${model.stored_as} · ${plan.layers} layers · ${devices}`;
}

function keyFigures(figures: ReportFigures): string {
  const phases = Object.values(figures.compute);
  const seconds = phases.reduce((sum, phase) => sum + phase.seconds, 0);
  const decode = figures.compute.decode;
  const entries: (readonly [string, string])[] = [];
  const { new_tokens: newTokens, seconds: ofCycles } = figures as { new_tokens?: unknown; seconds?: unknown };
  if (typeof newTokens === 'number' && typeof ofCycles === 'number') {
    entries.push(['new tokens', whole(newTokens)]);
    entries.push(['tokens per second', few(newTokens / Math.max(ofCycles, 1e-3))]);
  } else {
    const tokens = phases.reduce((sum, phase) => sum + phase.tokens, 0);
    entries.push(['tokens', whole(tokens)], ['tokens per second', few(tokens / Math.max(seconds, 1e-3))]);
  }
  if (decode) entries.push(['a decoding pass', `${few((decode.seconds / decode.passes) * 1e3)} ms`]);
  entries.push(['compute waited for weights', `${few(figures.stall_share * 100)} %`]);
  if (figures.experts)
    entries.push(['chosen experts found in slots', `${few(figures.experts.hit_share * 100)} %`]);
  entries.push(['ready after', `${few(figures.ready_seconds)} s`]);
  const cells = entries.map(([term, value]) => `<div><dt>${term}</dt><dd>${value}</dd></div>`);
  return `<dl class="figures">${cells.join('')}</dl>`;
}
