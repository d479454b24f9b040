// Where tools that quantise say how, for checkpoints whose config.json does not.

import { join } from 'node:path';
import { type JsonObject, readOptionalJsonObject } from '../files/json-file.js';
import { textPart } from './text-part.js';

/** Beside config.json; the first that there is counts. */
export const QUANTISER_FILES: readonly string[] = [
  'hf_quant_config.json',
  'quantize_config.json',
  'quant_config.json',
];

export interface QuantiserFile {
  readonly path: string;
  readonly values: JsonObject;
}

/** Undefined where config.json says it itself, or nothing does. Throws BAD_CONFIG. @param names of the folder's files */
export async function readQuantiser(
  folder: string,
  config: JsonObject,
  names: readonly string[],
): Promise<QuantiserFile | undefined> {
  const text = textPart(config).config;
  const isTold = [text.quantization_config, text.compression_config].some(
    (value) => value !== undefined && value !== null,
  );
  const name = isTold ? undefined : QUANTISER_FILES.find((candidate) => names.includes(candidate));
  if (name === undefined) return undefined;
  const path = join(folder, name);
  const values = await readOptionalJsonObject(path, 'BAD_CONFIG');
  return values && { path, values };
}
