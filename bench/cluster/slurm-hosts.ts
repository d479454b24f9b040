// Slurm with several hosts on this machine: a controller and a daemon per host, from the distribution's packages, in one folder.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

const PROGRAMS = ['munged', 'slurmctld', 'slurmd'];

/** Whether this machine has Slurm, and this process may run its daemons. */
export function hasSlurm(): boolean {
  try {
    for (const name of PROGRAMS) execFileSync('sh', ['-c', `PATH=$PATH:/usr/sbin command -v ${name}`]);
    return process.getuid?.() === 0;
  } catch {
    return false;
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))));
  const ports = servers.map((server) => {
    const address = server.address();
    return address === null || typeof address === 'string' ? 0 : address.port;
  });
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

export class SlurmHosts {
  readonly #folder: string;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #daemons: ChildProcess[] = [];

  private constructor(folder: string) {
    this.#folder = folder;
    const { PATH = '' } = process.env;
    const path = `${PATH}:/usr/sbin`;
    this.#environment = { ...process.env, PATH: path, SLURM_CONF: join(folder, 'slurm.conf') };
  }

  /** Resolves when all hosts take jobs. */
  static async start(count: number, folder: string): Promise<SlurmHosts> {
    const hosts = new SlurmHosts(folder);
    try {
      await hosts.#start(count);
      return hosts;
    } catch (error) {
      hosts.close();
      throw error;
    }
  }

  async #start(count: number): Promise<void> {
    const folder = this.#folder;
    const [controller = 0, ...ports] = await freePorts(count + 1);
    const names = ports.map((_, i) => `n${i + 1}`);
    for (const name of ['state', ...names]) mkdirSync(join(folder, name), { recursive: true });
    const [key, socket] = [join(folder, 'munge.key'), join(folder, 'munge.socket')];
    writeFileSync(key, Buffer.alloc(128, folder), { mode: 0o400 });
    const files = ['key-file', 'pid-file', 'log-file', 'seed-file'];
    const words = files.map((name) => `--${name}=${join(folder, `munge.${name.slice(0, -5)}`)}`);
    this.#run('munged', ['--foreground', '--force', `--socket=${socket}`, ...words]);
    const lines = [
      'ClusterName=zi',
      `SlurmctldHost=${hostname()}(127.0.0.1)`,
      'SlurmUser=root',
      'SlurmdUser=root',
      'AuthType=auth/munge',
      `AuthInfo=socket=${socket}`,
      'CredType=cred/munge',
      `StateSaveLocation=${join(folder, 'state')}`,
      `SlurmdSpoolDir=${join(folder, '%n')}`,
      `SlurmctldPidFile=${join(folder, 'controller.pid')}`,
      `SlurmdPidFile=${join(folder, '%n.pid')}`,
      `SlurmctldLogFile=${join(folder, 'controller.log')}`,
      `SlurmdLogFile=${join(folder, '%n.log')}`,
      'ProctrackType=proctrack/linuxproc',
      'TaskPlugin=task/none',
      'MpiDefault=none',
      'SwitchType=switch/none',
      'SelectType=select/cons_tres',
      'SelectTypeParameters=CR_Core',
      'ReturnToService=2',
      'SchedulerParameters=sched_interval=1,defer_batch',
      `SlurmctldPort=${controller}`,
      ...names.map(
        (name, i) =>
          `NodeName=${name} NodeHostname=${hostname()} NodeAddr=127.0.0.1 Port=${ports[i]} CPUs=2 State=UNKNOWN`,
      ),
      'PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP',
    ];
    writeFileSync(join(folder, 'slurm.conf'), `${lines.join('\n')}\n`);
    this.#run('slurmctld', ['-D', '-i']);
    for (const name of names) this.#run('slurmd', ['-D', '-N', name]);
    await this.#until(
      () => this.ask('sinfo', '-h', '-o', '%D %T').trim() === `${count} idle`,
      'hosts take no jobs',
    );
  }

  #run(program: string, words: readonly string[]): void {
    const child = spawn(program, words, { env: this.#environment, stdio: 'ignore' });
    child.on('error', () => undefined);
    this.#daemons.push(child);
  }

  async #until(holds: () => boolean, otherwise: string, seconds = 60): Promise<void> {
    for (const end = Date.now() + seconds * 1e3; ; ) {
      try {
        if (holds()) return;
      } catch {
        // The daemons have not begun to listen.
      }
      if (Date.now() > end) throw new Error(`Slurm: ${otherwise}; its logs are in ${this.#folder}`);
      await setTimeout(300);
    }
  }

  /** What a command of Slurm prints. */
  ask(command: string, ...words: readonly string[]): string {
    return execFileSync(command, words, { env: this.#environment, encoding: 'utf8', stdio: 'pipe' });
  }

  /** Runs a batch script to its end, in the folder. Throws with its logs where a task has failed. */
  async batch(script: string, words: readonly string[], environment: NodeJS.ProcessEnv): Promise<void> {
    const job = execFileSync('sbatch', ['--parsable', ...words, script], {
      env: { ...this.#environment, ...environment },
      cwd: this.#folder,
      encoding: 'utf8',
    }).trim();
    await this.#until(
      () => this.ask('squeue', '-h', '-j', job).trim() === '',
      `job ${job} does not end`,
      300,
    );
    const states = this.ask('scontrol', '-o', 'show', 'job', job)
      .trim()
      .split('\n')
      .map((line) => /JobState=(\w+)/.exec(line)?.[1]);
    if (states.every((state) => state === 'COMPLETED')) return;
    throw new Error(`Slurm: job ${job} ended as ${states.join()}\n${this.#logsOf(job)}`);
  }

  #logsOf(job: string): string {
    const names = execFileSync('ls', [this.#folder], { encoding: 'utf8' }).split('\n');
    const logs = names.filter((name) => name.startsWith(`zero-inference-${job}`));
    return logs.map((name) => readFileSync(join(this.#folder, name), 'utf8')).join('');
  }

  close(): void {
    for (const daemon of this.#daemons.reverse()) daemon.kill('SIGTERM');
  }
}
