// Values that are stored as they are: F32, F16 and BF16.

import { formatOf } from '../../offload/index.js';
import { floatTypeOf, type Reading, type StoredMatrix, sameShape } from './reading.js';

export function readDense(reading: Reading): StoredMatrix | undefined {
  const { stored, rows, K, place } = reading;
  const type = stored && floatTypeOf(stored);
  if (!stored || !type) return undefined;
  if (place.inputMajor && place.whole.length > 2) {
    throw reading.fault(
      'UNSUPPORTED',
      stored,
      `holds the matrices of several experts as ${stored.dtype} [inputs, outputs], which no kernel multiplies with: ` +
        'use the checkpoint as it was published, in mxfp4',
    );
  }
  const shape = place.inputMajor ? [K, rows] : place.whole;
  if (!sameShape(stored.shape, shape)) {
    throw reading.fault(
      'WRONG_SHAPE',
      stored,
      `has shape [${stored.shape.join(', ')}], but config.json implies [${shape.join(', ')}]`,
    );
  }
  const scales = reading.find('_scale_inv') ?? reading.find('_scale');
  if (scales) {
    throw reading.fault(
      'UNSUPPORTED',
      stored,
      `is stored as ${stored.dtype} beside ${scales.name}: its values were to be quantised and are not; save it compressed`,
    );
  }
  if (place.inputMajor) {
    const codes = reading.perMatrix('codes', stored, type, shape);
    return { format: formatOf('dense_in', type), firstRow: 0, parts: { codes } };
  }
  return { format: formatOf('dense', type), firstRow: 0, parts: { codes: reading.codes(stored, type, K) } };
}
