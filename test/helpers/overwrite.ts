// Writes to a file as programs do that leave its size, or even its time, as they were.

import { spawnSync } from 'node:child_process';
import { closeSync, openSync, statSync, writeSync } from 'node:fs';

/** Other bytes within the file, as `dd conv=notrunc` writes them. By default from its middle to its end. */
export function overwrite(path: string, offset?: number, bytes?: Uint8Array): void {
  const { size } = statSync(path);
  const start = offset ?? Math.floor(size / 2);
  const file = openSync(path, 'r+');
  writeSync(file, bytes ?? Buffer.alloc(size - start, 0x3c), 0, null, start);
  closeSync(file);
}

/** Does `change` and gives the file the time that it had, to the nanosecond, or another one. */
export function keepingTime(
  path: string,
  change: () => void,
  mtimeNs = statSync(path, { bigint: true }).mtimeNs,
): void {
  change();
  const [seconds, rest] = [mtimeNs / 1_000_000_000n, mtimeNs % 1_000_000_000n];
  spawnSync('touch', ['-m', '-d', `@${seconds}.${String(rest).padStart(9, '0')}`, path]);
  if (statSync(path, { bigint: true }).mtimeNs !== mtimeNs) throw new Error('the time could not be set');
}
