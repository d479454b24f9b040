// What a device's failure is to whoever waits for it: an operating error that names the first cause.

import { OperatingError } from '../errors.js';
import type { DeviceEvent } from './backend.js';

/** Devices wait for each other, so the first cause names its own device; the one that is asked may be sound. */
export function deviceFailure(error: unknown): OperatingError {
  if (error instanceof OperatingError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new OperatingError('DEVICE_FAILED', `a device failed: ${reason}`, { cause: error });
}

/** Resolves when the event is reached. Rejects with an OperatingError when its device failed before. */
export async function reached(event: DeviceEvent, urgent = false): Promise<void> {
  try {
    await event.reached(urgent);
  } catch (error) {
    throw deviceFailure(error);
  }
}
