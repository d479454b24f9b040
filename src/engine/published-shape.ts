// How makers store the matrices of a model of which only the configuration is there: which are in fewer bits, and in which.

import type { JsonObject } from '../files/json-file.js';
import type { Declared } from '../formats/declared.js';
import { isMatrix, type TensorDef } from '../models/architecture.js';
import { isExpert, type StoredFormatOf } from './shape-tensors.js';

/** Undefined where a configuration does not tell it: what is stored so is said by the checkpoint's tensors alone. */
export function publishedFormat({ method }: Declared, text: JsonObject): StoredFormatOf | undefined {
  switch (method) {
    case 'fp8': {
      // DeepSeek-V4 has its experts in fewer bits than the rest.
      const experts = text.expert_dtype === 'fp4' ? 'mxfp4' : 'fp8';
      return (def) => (isPacked(def) ? (isExpert(def) ? experts : 'fp8') : undefined);
    }
    case 'mxfp4':
      return (def) => (isPacked(def) && isExpert(def) ? 'mxfp4' : undefined);
    default:
      return undefined;
  }
}

/** Routers keep the values that they were made with. */
function isPacked(def: TensorDef): boolean {
  return isMatrix(def) && def.isRouter !== true;
}
