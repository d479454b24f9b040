// Values that are stored as they are: F32, F16 and BF16.

import { formatOf, sameShape } from '../../offload/index.js';
import { floatTypeOf, type Reading, SIDE_BY_SIDE, type StoredMatrix } from './reading.js';

export function readDense(reading: Reading): StoredMatrix | undefined {
  const { stored, rows, K, place } = reading;
  const type = stored && floatTypeOf(stored);
  if (!stored || !type) return undefined;
  const [N] = place.shape;
  const one = place.inputMajor ? [K, rows] : [rows, K];
  const shape = place.whole.length > 2 ? [...place.whole.slice(0, -2), ...one] : one;
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
    if (N !== rows) throw reading.fault('UNSUPPORTED', stored, SIDE_BY_SIDE);
    const codes = reading.perMatrix('codes', stored, type, one);
    return { format: formatOf('dense_in', type), firstRow: 0, parts: { codes } };
  }
  return { format: formatOf('dense', type), firstRow: 0, parts: { codes: reading.codes(stored, type, K) } };
}
