// What became of each layer in a run: where it rests, what came of it over each hop, how long it computed and was waited for.

import type { LayerSummary, Plan } from '../../offload/index.js';
import type { Meter } from './meter.js';

export interface LayerFigures {
  readonly layer: string;
  /** Where it rests; null for what is no layer of the plan: the embedding, a table of rows. */
  readonly tier: string | null;
  readonly drive_bytes: number;
  /** Reads that were under way together count each, as do copies. */
  readonly drive_seconds: number;
  readonly link_bytes: number;
  readonly link_seconds: number;
  /** On all devices together. */
  readonly compute_seconds: number;
  /** Compute waited for it: on average over the devices. */
  readonly stall_seconds: number;
}

/** In the order of a pass; what is no layer of the plan comes first. */
export function layerFigures(plan: Plan, meter: Meter): LayerFigures[] {
  const lanes = new Map(meter.layers().map((sum) => [`${sum.lane} ${sum.name}`, sum]));
  const tiers = new Map(plan.layers.map(({ layout, tier }) => [layout.layer.name, tier]));
  const others = new Set([...lanes.values()].map(({ name }) => name).filter((name) => !tiers.has(name)));
  return [...others, ...tiers.keys()].map((name) => {
    const [drive, link, compute] = (['nvme→dram', 'dram→gpu', 'compute'] as const).map((lane) =>
      lanes.get(`${lane} ${name}`),
    );
    return {
      layer: name,
      tier: tiers.get(name) ?? null,
      drive_bytes: drive?.bytes ?? 0,
      drive_seconds: secondsOf(drive),
      link_bytes: link?.bytes ?? 0,
      link_seconds: secondsOf(link),
      compute_seconds: secondsOf(compute),
      stall_seconds: meter.stallSecondsOf(name),
    };
  });
}

function secondsOf(sum: LayerSummary | undefined): number {
  return (sum?.spanMs ?? 0) / 1e3;
}
