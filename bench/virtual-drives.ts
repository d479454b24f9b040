// Drives of a given rate on this machine: files in memory as block devices with ext4, whose reads the control group limits.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const BLKIO = '/sys/fs/cgroup/blkio';
const UNIFIED = '/sys/fs/cgroup';

export interface VirtualDrive {
  readonly folder: string;
  readonly bytesPerSecond: number;
}

/** Needs root, loop devices, mkfs.ext4 and the control group's limits of reads. Throws where one of them is missing. */
export class VirtualDrives {
  readonly #root: string;
  readonly #devices: string[] = [];
  readonly #folders: string[] = [];
  #group: string | undefined;
  readonly drives: readonly VirtualDrive[];

  /** @param parent holds the drives' content: in memory, so that nothing but the limit slows them */
  constructor(rates: readonly number[], bytesEach: number, parent = '/dev/shm') {
    this.#root = mkdtempSync(join(parent, 'zero-inference-drives-'));
    try {
      this.drives = rates.map((bytesPerSecond, index) => ({
        bytesPerSecond,
        folder: this.#make(index, bytesEach),
      }));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #make(index: number, sizeBytes: number): string {
    const image = join(this.#root, `${index}.img`);
    writeFileSync(image, '');
    truncateSync(image, sizeBytes);
    const device = run('losetup', '--find', '--show', image).trim();
    this.#devices.push(device);
    run('mkfs.ext4', '-q', '-O', '^has_journal', '-m', '0', device);
    const folder = join(this.#root, `${index}`);
    mkdirSync(folder);
    run('mount', device, folder);
    this.#folders.push(folder);
    return folder;
  }

  /** From now on this process reads no faster. */
  limit(): void {
    const isUnified = !existsSync(BLKIO);
    const parent = isUnified ? UNIFIED : BLKIO;
    const group = join(parent, `zero-inference-bench-${process.pid}`);
    if (isUnified) writeFileSync(join(parent, 'cgroup.subtree_control'), '+io');
    mkdirSync(group);
    this.#group = group;
    for (const [index, { bytesPerSecond }] of this.drives.entries()) {
      const number = run('lsblk', '--noheadings', '--output', 'MAJ:MIN', this.#devices[index] ?? '').trim();
      const rate = Math.round(bytesPerSecond);
      if (isUnified) writeFileSync(join(group, 'io.max'), `${number} rbps=${rate}`);
      else writeFileSync(join(group, 'blkio.throttle.read_bps_device'), `${number} ${rate}`);
    }
    writeFileSync(join(group, 'cgroup.procs'), `${process.pid}`);
  }

  /** Gives all back; more than once does no harm. */
  close(): void {
    if (this.#group) {
      writeFileSync(join(this.#group, '..', 'cgroup.procs'), `${process.pid}`);
      rmdirSync(this.#group);
      this.#group = undefined;
    }
    for (const folder of this.#folders.splice(0)) run('umount', '--lazy', folder);
    for (const device of this.#devices.splice(0)) run('losetup', '--detach', device);
    rmSync(this.#root, { recursive: true, force: true });
  }
}

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}
