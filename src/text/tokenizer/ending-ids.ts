// Which ids begin and end texts, by the files that transformers' `generate` asks: generation_config.json where there is
// one, and config.json only where there is none.

import { isJsonObject, type JsonObject } from '../../files/json-file.js';

/**
 * The ids of a role such as `eos`; none where the file that decides names none.
 * @param generation generation_config.json, undefined where there is no such file
 */
export function configuredRole(
  generation: JsonObject | undefined,
  config: JsonObject,
  role: 'bos' | 'eos' | 'pad',
): number[] {
  const key = `${role}_token_id`;
  if (generation) return idList(generation[key]);
  // A language model within another may say it itself.
  const text = isJsonObject(config.text_config) ? config.text_config : {};
  return idList(config[key] ?? text[key]);
}

/** One id, a list of ids, or null for none. Negative ids occur in old files and mean none. */
function idList(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => Number.isSafeInteger(id) && Number(id) >= 0);
}
