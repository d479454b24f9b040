// Where a layer's experts lie in files: what is read of each alone, and where its parts are then in a slot.

import { present } from '../errors.js';
import type { LayerExperts } from './experts.js';
import { type HostLayout, hostLayout, type LayerLayout } from './layout.js';

/** A layer of which experts are read one by one, and all else once. */
export interface ExpertFiles {
  /** All but the experts, in host memory. */
  readonly base: HostLayout;
  /** By expert: in a slot, which has the file's own bytes. */
  readonly experts: readonly HostLayout[];
  /** What the largest of them takes. */
  readonly slotBytes: number;
  /** By expert, then by part: where it begins in the slot. */
  readonly partOffsets: readonly (readonly number[])[];
}

const known = new WeakMap<LayerExperts, ExpertFiles>();

export function expertFilesOf({ layer }: LayerLayout, layerExperts: LayerExperts): ExpertFiles {
  const before = known.get(layerExperts);
  if (before) return before;
  const { specs } = layerExperts;
  const inSlots = new Set(specs.flat());
  const rest = layer.tensors.filter((spec) => !inSlots.has(spec));
  const experts = specs.map((tensors, index) =>
    // What several parts are stored as is read once.
    hostLayout({ name: `${layer.name}, expert ${index}`, tensors: [...new Set(tensors)], matrices: [] }),
  );
  const partOffsets = experts.map(({ placements }, index) => {
    const at = new Map(placements.map(({ weight, offsetBytes }) => [weight, offsetBytes]));
    return present(specs[index], 'parts').map((spec) => present(at.get(spec), spec.key));
  });
  const files = {
    base: hostLayout({ name: layer.name, tensors: rest, matrices: [] }),
    experts,
    slotBytes: experts.reduce((most, { sizeBytes }) => Math.max(most, sizeBytes), 0),
    partOffsets,
  };
  known.set(layerExperts, files);
  return files;
}
