// What a configuration overrides in single layers, as transformers 5 writes it.

import { OperatingError } from '../../offload/index.js';
import { ConfigReader } from '../checkpoint/config-reader.js';
import { isJsonObject } from '../files/json-file.js';

/**
 * A layer's entry of `per_layer_config`; undefined where it has none.
 * Throws BAD_CONFIG, or UNSUPPORTED for any other name than the known ones.
 */
export function layerOverrides(
  config: ConfigReader,
  index: number,
  known: readonly string[],
): ConfigReader | undefined {
  const all = config.raw('per_layer_config');
  const own = isJsonObject(all) ? all[String(index)] : undefined;
  if (own === undefined) return undefined;
  if (!isJsonObject(own))
    throw new OperatingError(
      'BAD_CONFIG',
      `${config.path}: per_layer_config of layer ${index} must be an object`,
    );
  const reader = new ConfigReader(own, `${config.path}: per_layer_config of layer ${index}`);
  const unknown = Object.keys(own).find((key) => !known.includes(key));
  if (unknown !== undefined) throw reader.unsupported(unknown, own[unknown], known.join(', '));
  return reader;
}
