// The parts of a report's page: where time went, hops beside their limits, passes over time, layers, memory.

import { duration, few, flops, percent, rate, size, whole } from '../drawing/numbers.js';
import {
  columns,
  escaped,
  type Kind,
  layerStrip,
  legend,
  line,
  rateBar,
  splitBar,
} from '../drawing/shapes.js';
import type { LayerFigures } from './layer-figures.js';
import type { SeriesPiece } from './pass-series.js';
import type { ReportFigures } from './report.js';

const OF_TIME: readonly (readonly [Kind, string])[] = [
  ['compute', 'compute was busy'],
  ['wait', 'it waited for weights'],
  ['other', 'neither: reading results, tokens to text, gaps between passes'],
];

function section(title: string, content: string): string {
  return `<section class="card"><h2>${title}</h2>${content}</section>`;
}

function pair(left: string, right: string): string {
  return `<div class="pair"><span>${escaped(left)}</span><span class="quiet number">${escaped(right)}</span></div>`;
}

export function timeSection({ compute }: ReportFigures): string {
  const phases = Object.entries(compute);
  if (phases.length === 0) return section('Where time went', '<p class="quiet">No pass was made.</p>');
  const longest = Math.max(...phases.map(([, { seconds }]) => seconds));
  const bars = phases.map(([name, phase]) => {
    const { seconds, busy_seconds: busy, stall_seconds: stall, tokens, passes } = phase;
    const said = `${duration(seconds)}, ${percent(busy / seconds)} busy, ${percent(stall / seconds)} waiting for weights`;
    const other = Math.max(0, seconds - busy - stall);
    const parts = [
      { kind: 'compute', value: busy },
      { kind: 'wait', value: stall },
      { kind: 'other', value: other },
    ] as const;
    const made = `${whole(tokens)} tokens in ${whole(passes)} ${passes === 1 ? 'pass' : 'passes'} · ${said}`;
    return `${pair(name, made)}<div class="bar">${splitBar(`${name}: ${said}`, parts, longest)}</div>`;
  });
  return section('Where time went', bars.join('') + legend(OF_TIME));
}

export function hopsSection({ hops, compute, experts, rows }: ReportFigures): string {
  const bars = hops.map((hop) => {
    const name = hop.hop === 'rows' ? 'embedding rows' : hop.hop;
    const said = `${size(hop.bytes)} in ${whole(hop.reads)} ${hop.reads === 1 ? 'piece' : 'pieces'}, under way for ${duration(hop.busy_seconds)}`;
    return rateRow(`${name} (${hop.owner})`, said, {
      achieved: hop.bytes_per_second,
      limit: hop.limit_bytes_per_second,
      share: hop.of_limit,
      words: rate,
    });
  });
  for (const [name, phase] of Object.entries(compute)) {
    bars.push(
      rateRow(`weights through ${name}`, size(phase.weight_bytes), {
        achieved: phase.weight_bytes_per_second,
        limit: phase.limit_bytes_per_second,
        share: phase.of_limit,
        words: rate,
      }),
      rateRow(`arithmetic of ${name}`, 'products in blocks', {
        achieved: phase.block_flops_per_second,
        limit: phase.limit_flops_per_second,
        share: phase.of_flops_limit,
        words: flops,
      }),
    );
  }
  const more: string[] = [];
  if (experts) {
    more.push(
      `<h3>Chosen experts</h3>${pair(
        `${percent(experts.hit_share)} of ${whole(experts.hits + experts.misses)} lay in slots`,
        `${size(experts.brought_bytes)} came${experts.computed_by_cpu > 0 ? `, the CPU computed ${whole(experts.computed_by_cpu)}` : ''}`,
      )}<div class="bar">${splitBar(
        'experts found in slots, and not',
        [
          { kind: 'compute', value: experts.hits },
          { kind: 'wait', value: experts.misses },
        ],
        experts.hits + experts.misses,
      )}</div>`,
    );
  }
  if (rows && rows.passes > 0) {
    const all = rows.travelled_bytes + rows.stayed_bytes;
    more.push(
      `<h3>Rows shared with the CPU</h3>${pair(
        `${percent(all > 0 ? rows.stayed_bytes / all : 0)} of ${size(all)} were multiplied where they rest`,
        `${percent(rows.travelling_share)} travel at the end`,
      )}`,
    );
  }
  const key = '<p class="quiet">A mark stands at the limit that was measured in the same run.</p>';
  return section('Rates beside their limits', bars.join('') + more.join('') + key);
}

interface Rate {
  readonly achieved: number;
  readonly limit: number | null;
  readonly share: number | null;
  readonly words: (value: number) => string;
}

/** Without a limit a bar would say nothing. */
function rateRow(name: string, said: string, { achieved, limit, share, words }: Rate): string {
  if (limit === null) return `${pair(name, `${said} · ${words(achieved)}`)}<div class="gap"></div>`;
  const beside =
    share === null ? `above the ${words(limit)} measured` : `${percent(share)} of ${words(limit)}`;
  const drawn = rateBar(`${words(achieved)}, ${beside}`, { achieved, limit }, Math.max(achieved, limit));
  return `${pair(name, `${said} · ${words(achieved)} · ${beside}`)}<div class="bar">${drawn}</div>`;
}

export function overTimeSection(series: readonly SeriesPiece[]): string {
  if (series.length < 2) return '';
  const seconds = series.reduce((sum, piece) => sum + piece.seconds, 0);
  const all = series.map((piece) => ({
    width: piece.seconds,
    parts: [
      { kind: 'compute', value: piece.computeSeconds / piece.seconds },
      { kind: 'wait', value: piece.stallSeconds / piece.seconds },
    ] as const,
  }));
  const tokens = series.map((piece) => piece.tokens / piece.seconds);
  const drive = series.map((piece) => piece.driveBytes / piece.seconds);
  const link = series.map((piece) => piece.linkBytes / piece.seconds);
  const lines = [
    curve('tokens per second', tokens, (value) => few(value)),
    curve('read from the drive', drive, rate),
    curve('sent to devices', link, rate),
  ];
  const share = columns('share of each moment in which compute was busy, or waited', all, 1);
  return section(
    `Over time: ${duration(seconds)}`,
    `<div class="tall">${share}</div>${legend(OF_TIME.slice(0, 2))}${lines.join('')}`,
  );
}

/** A rate by piece: nothing where there never was any. */
function curve(name: string, values: readonly number[], words: (value: number) => string): string {
  const most = Math.max(...values);
  if (!(most > 0)) return '';
  const sorted = [...values].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  const said = `median ${words(median)}, most ${words(most)}`;
  return `<h3>${pair(name, said)}</h3><div class="tall">${line(`${name}: ${said}`, values, most)}</div>`;
}

/** As many rows of the table as a page holds well. */
const MOST_ROWS = 400;

export function layersSection({ layers, plan }: ReportFigures): string {
  const ofPlan = layers.filter(({ tier }) => tier !== null);
  const strip = layerStrip(
    plan.placement,
    ofPlan.map(({ tier }) => kindOf(tier)),
  );
  const tiers = legend([
    ['gpu', `${plan.layers_on_device} on the device`],
    ['dram', `${plan.layers_in_dram} in DRAM`],
    ['nvme', `${plan.layers_on_drive} on the drive`],
  ]);
  const most = Math.max(...ofPlan.map((layer) => layer.compute_seconds + layer.stall_seconds));
  const chart = columns(
    'seconds of compute, and of waiting, by layer',
    ofPlan.map((layer) => ({
      width: 1,
      parts: [
        { kind: 'compute', value: layer.compute_seconds },
        { kind: 'wait', value: layer.stall_seconds },
      ],
    })),
    most,
    ofPlan.length > 100 ? 0 : 0.08,
  );
  const drawn =
    most > 0
      ? `<h3>${pair('compute and waiting, by layer', `most: ${duration(most)}`)}</h3><div class="tall">${chart}</div>${legend(OF_TIME.slice(0, 2))}`
      : '';
  return section(
    'Layers',
    `<p class="quiet">${escaped(plan.placement)}</p><div class="strip">${strip}</div>${tiers}${drawn}` +
      `<details><summary>every layer as numbers</summary>${layerTable(layers)}</details>`,
  );
}

function kindOf(tier: string | null): Kind {
  return tier === 'gpu' || tier === 'dram' ? tier : 'nvme';
}

function layerTable(layers: readonly LayerFigures[]): string {
  const rows = layers
    .slice(0, MOST_ROWS)
    .map(
      (layer) =>
        `<tr><td>${escaped(layer.layer)}</td><td>${layer.tier ?? ''}</td><td>${amount(layer.drive_bytes)}</td>` +
        `<td>${time(layer.drive_seconds)}</td><td>${amount(layer.link_bytes)}</td><td>${time(layer.link_seconds)}</td>` +
        `<td>${time(layer.compute_seconds)}</td><td>${time(layer.stall_seconds)}</td></tr>`,
    );
  const left = layers.length - rows.length;
  return (
    '<div class="scrolls" tabindex="0" role="region" aria-label="every layer as numbers"><table><thead><tr><th>layer</th><th>rests</th><th>from the drive</th><th>reading</th>' +
    `<th>over the link</th><th>copying</th><th>compute</th><th>waited for</th></tr></thead><tbody>${rows.join('')}</tbody></table></div>` +
    (left > 0 ? `<p class="quiet">and ${whole(left)} more, in the JSON of this page</p>` : '')
  );
}

function amount(bytes: number): string {
  return bytes > 0 ? size(bytes) : '';
}

function time(seconds: number): string {
  return seconds > 0 ? duration(seconds) : '';
}

export function memorySection({ plan }: ReportFigures): string {
  const rows = plan.memory.map(
    ({ tier, name, bytes, reason }) =>
      `<tr><td>${escaped(name)}</td><td>${tier}</td><td>${size(bytes)}</td><td class="words quiet">${escaped(reason)}</td></tr>`,
  );
  return section(
    'What memory was for, beside weights at rest',
    `<div class="scrolls" tabindex="0" role="region" aria-label="memory by purpose"><table><thead><tr><th>for</th><th>where</th><th>size</th><th class="words"></th></tr></thead>` +
      `<tbody>${rows.join('')}</tbody></table></div>`,
  );
}

export function notesSection({ notes }: ReportFigures): string {
  if (notes.length === 0) return '';
  return section('Notes', `<ul>${notes.map((note) => `<li>${escaped(note)}</li>`).join('')}</ul>`);
}
