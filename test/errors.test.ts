// Messages of operating errors: whatever a file holds, one line for a person reaches the terminal.

import { expect, test } from 'vitest';
import { OperatingError } from '../offload/errors.js';

test('control characters are escaped, other languages are not', () => {
  const { message } = new OperatingError('BAD_INPUT', 'a\x1b[2J\x00\x7f\x9b31m ü 漢\nb');
  expect(message).toBe('a\\x1b[2J\\x00\\x7f\\x9b31m ü 漢\nb');
});

test('an endless message is cut', () => {
  const { message } = new OperatingError('BAD_INPUT', 'x'.repeat(1e6));
  expect(message).toHaveLength(1000);
  expect(message.endsWith('x…')).toBe(true);
});
