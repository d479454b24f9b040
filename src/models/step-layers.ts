// What Step's configurations say of single layers, in lists that may go on for layers that only predict further tokens.

import { OperatingError } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type LayerType, layerTypeOf } from './layer-windows.js';

/** A list's entries for the model's own layers; undefined where there is none. Throws BAD_CONFIG for another length. */
export function stepList(config: ConfigReader, name: string): readonly unknown[] | undefined {
  const listed = config.raw(name);
  if (listed === undefined) return undefined;
  const layers = config.count(['num_hidden_layers']);
  const ahead = config.number(['num_nextn_predict_layers', 'num_mtp_layers'], 0);
  if (Array.isArray(listed) && (listed.length === layers || listed.length === layers + ahead))
    return listed.slice(0, layers);
  const more = ahead > 0 ? `, or ${layers + ahead} with those that only predict further tokens` : '';
  throw new OperatingError(
    'BAD_CONFIG',
    `${config.path}: ${name} must be a list with an entry for each of the ${layers} layers${more}`,
  );
}

export function stepLayerTypes(config: ConfigReader): LayerType[] {
  const layers = config.count(['num_hidden_layers']);
  const listed = stepList(config, 'layer_types') ?? Array.from({ length: layers }, () => 'full_attention');
  return listed.map((type) => layerTypeOf(config, type));
}

/** `mlp_layer_types`, or the places of mixtures as published files list them, or all layers but three. */
export function stepSparseLayers(config: ConfigReader): readonly boolean[] {
  const listed = stepList(config, 'mlp_layer_types');
  if (listed) {
    return listed.map((type) => {
      if (type === 'sparse' || type === 'dense') return type === 'sparse';
      throw config.unsupported('mlp_layer_types', type, 'sparse, dense');
    });
  }
  const layers = config.count(['num_hidden_layers']);
  const places = config.raw('moe_layers_enum');
  const isSparse = places === undefined ? (index: number) => index >= 3 : placesOf(config, places);
  return Array.from({ length: layers }, (_, index) => isSparse(index));
}

function placesOf(config: ConfigReader, value: unknown): (index: number) => boolean {
  const items = typeof value === 'string' ? value.split(',').filter((item) => item.trim() !== '') : value;
  const places = Array.isArray(items) ? items.map(Number) : [Number.NaN];
  if (!places.every((place) => Number.isSafeInteger(place) && place >= 0))
    throw config.unsupported('moe_layers_enum', value, 'places of layers, in a list or between commas');
  const all = new Set(places);
  return (index) => all.has(index);
}

/** Where gates end, by layer; 0 where they do not. */
export function stepLimits(config: ConfigReader, name: string): readonly number[] {
  const listed = stepList(config, name);
  const layers = config.count(['num_hidden_layers']);
  if (!listed) return Array.from({ length: layers }, () => 0);
  return listed.map((limit) => {
    if (limit === null) return 0;
    if (typeof limit === 'number' && Number.isFinite(limit) && limit >= 0) return limit;
    throw config.unsupported(name, limit, 'numbers from 0, and null for none');
  });
}
