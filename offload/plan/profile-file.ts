// Checks a machine's description that a file gives. Not in index.ts: what checks it takes longer to load than all the rest.

import { OperatingError } from '../errors.js';
import { type HardwareProfile, renameKeys, toSnake } from './profile.js';
import { schema } from './profile-schema.js';

/** Files have names with underscores, as reports have. Throws BAD_CONFIG. @param path for messages */
export function parseProfile(json: unknown, path: string): HardwareProfile {
  const parsed = schema.safeParse(renameKeys(json, toCamel));
  if (parsed.success) return checkDevices(parsed.data, path);
  const [issue] = parsed.error.issues;
  const where = (issue?.path ?? []).map((key) => (typeof key === 'string' ? toSnake(key) : String(key)));
  throw new OperatingError(
    'BAD_CONFIG',
    `${path} describes no machine: ${where.length > 0 ? `${where.join('.')}: ` : ''}${issue?.message ?? 'it is malformed'}; ` +
      'see configs/machines, or write one with doctor --save FILE',
  );
}

function checkDevices(profile: HardwareProfile, path: string): HardwareProfile {
  const { kind, memoryBytes, linkBytesPerSecond } = profile.devices;
  if (kind === 'gpu' && (memoryBytes === null || linkBytesPerSecond === null)) {
    throw new OperatingError(
      'BAD_CONFIG',
      `${path} describes no machine: devices of kind gpu need memory_bytes and link_bytes_per_second`,
    );
  }
  return profile;
}

function toCamel(name: string): string {
  return name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
