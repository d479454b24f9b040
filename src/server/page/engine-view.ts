// What the engine is doing, drawn from the live stream: layers as they move, hops beside their limits, batch and queue.

import { duration, few, percent, rate, whole } from '../../drawing/numbers.js';
import { escaped, legend, line, rateBar, splitBar } from '../../drawing/shapes.js';
import type { LiveFrame, LiveHello } from '../live-frame.js';
import { byId, element } from './dom.js';

/** A minute of frames. */
const MOST_FRAMES = 240;

export class EngineView {
  #cells: HTMLElement[] = [];
  #rates: number[] = [];

  begin({ placement, tiers, devices }: LiveHello): void {
    byId('placement', HTMLElement).textContent = placement;
    this.#cells = tiers.map((tier) => element('span', `cell ${tier}`));
    const layers = byId('layers', HTMLElement);
    layers.replaceChildren(...this.#cells);
    layers.setAttribute(
      'aria-label',
      `${tiers.length} layers on ${devices === 1 ? '1 device' : `${devices} devices`}: ${placement}`,
    );
    const there = new Set(tiers);
    const names = { nvme: 'on the drive', dram: 'in DRAM', gpu: 'on the device' } as const;
    const entries = (['nvme', 'dram', 'gpu'] as const).flatMap((tier) =>
      there.has(tier) ? [[tier, names[tier]] as const] : [],
    );
    byId('layer-legend', HTMLElement).innerHTML = legend([
      ...entries,
      ['compute', 'computed just now (underlined)'],
    ]);
  }

  draw(frame: LiveFrame): void {
    this.#drawTiles(frame);
    this.#drawLayers(frame);
    this.#drawHops(frame);
    this.#drawCompute(frame);
    this.#drawRate(frame.tokensPerSecond);
  }

  #drawTiles(frame: LiveFrame): void {
    const { batch, stored } = frame;
    const shared = frame.prefixHitShare;
    const tiles: (readonly [string, string])[] = [
      ['tokens/s', few(frame.tokensPerSecond)],
      ['batch', `${whole(batch.sequences)} of ${whole(batch.capacity)}`],
      ['waiting', whole(frame.waiting)],
      ['requests', whole(frame.openRequests)],
      ['stored', stored.batches === 0 ? '0' : `${whole(stored.batches)} · ${whole(stored.requests)}`],
      shared === null ? ['up for', duration(frame.seconds)] : ['prefix hits', percent(shared)],
    ];
    if (frame.expertHitShare !== null) tiles.push(['experts in slots', percent(frame.expertHitShare)]);
    const list = byId('tiles', HTMLElement);
    list.innerHTML = tiles
      .map(([term, value]) => `<div><dt>${term}</dt><dd>${escaped(value)}</dd></div>`)
      .join('');
  }

  #drawLayers({ moved }: LiveFrame): void {
    const [came, computed] = [new Set([...moved.drive, ...moved.link]), new Set(moved.compute)];
    for (const [place, cell] of this.#cells.entries()) {
      cell.classList.toggle('moved', came.has(place));
      cell.classList.toggle('computed', computed.has(place));
    }
  }

  #drawHops({ hops }: LiveFrame): void {
    const rows = hops.map((hop) => {
      const name = hop.hop === 'rows' ? 'embedding rows' : hop.hop;
      const limit = hop.limitBytesPerSecond;
      const beside = `${rate(hop.bytesPerSecond)} · ${hop.isMeasured ? 'limit' : 'best'} ${rate(limit)}`;
      const bar = rateBar(`${name}: ${beside}`, { achieved: hop.bytesPerSecond, limit }, limit);
      return `<div class="pair"><span>${escaped(`${name} (${hop.owner})`)}</span><span class="number quiet">${beside}</span></div><div class="bar">${bar}</div>`;
    });
    byId('hops', HTMLElement).innerHTML = rows.join('') || '<p class="quiet">Nothing has moved yet.</p>';
  }

  #drawCompute({ computeShare, stallShare }: LiveFrame): void {
    const idle = Math.max(0, 1 - computeShare - stallShare);
    const said = `busy ${percent(computeShare)}, waiting for weights ${percent(stallShare)}, idle ${percent(idle)}`;
    const parts = [
      { kind: 'compute', value: computeShare },
      { kind: 'wait', value: stallShare },
    ] as const;
    const key = legend([
      ['compute', `busy ${percent(computeShare)}`],
      ['wait', `waiting for weights ${percent(stallShare)}`],
    ]);
    const whole = Math.max(1, computeShare + stallShare);
    byId('compute', HTMLElement).innerHTML = `<div class="bar">${splitBar(said, parts, whole)}</div>${key}`;
  }

  #drawRate(tokensPerSecond: number): void {
    this.#rates = [...this.#rates, tokensPerSecond].slice(-MOST_FRAMES);
    const most = Math.max(...this.#rates);
    byId('rate-most', HTMLElement).textContent = `most ${few(most)}`;
    byId('rate', HTMLElement).innerHTML = line(
      `tokens per second, most ${few(most)}`,
      this.#rates,
      most * 1.1,
    );
  }
}
