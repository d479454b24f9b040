// What do several hosts read of weights on one network file system, when each streams them, keeps them, or copies them first?
//
// node dist/bench/cluster/shared-files.js [--hosts 4] [--tokens 8]
//
// Hosts are network namespaces, the file system is sshfs (FUSE) of the first of them, whose links are counted. Needs sshfs and sshd.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { MiB } from '../../offload/index.js';
import { Hosts, MAIN } from './hosts.js';

const { values } = parseArgs({
  options: {
    hosts: { type: 'string', default: '4' },
    tokens: { type: 'string', default: '8' },
    blocks: { type: 'string', default: '12' },
    dir: { type: 'string', default: 'out/bench/shared-files' },
  },
});
const count = Number(values.hosts);
const folder = join(process.cwd(), values.dir);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const inFolder = (name: string) => join(folder, name);

/** Some 170 MB in blocks of 14 MB each. */
const SHAPE = {
  architectures: ['OPTForCausalLM'],
  model_type: 'opt',
  dtype: 'float16',
  vocab_size: 8192,
  hidden_size: 768,
  word_embed_proj_dim: 768,
  ffn_dim: 3072,
  num_hidden_layers: Number(values.blocks),
  num_attention_heads: 12,
  max_position_embeddings: 512,
  do_layer_norm_before: true,
  activation_function: 'relu',
  bos_token_id: 2,
  eos_token_id: 2,
  pad_token_id: 1,
};
writeFileSync(inFolder('shape.json'), JSON.stringify(SHAPE));
const prompts = Array.from(
  { length: 4 },
  (_, i) => `${JSON.stringify({ prompt_token_ids: [i + 3, 7 * i] })}\n`,
);
writeFileSync(inFolder('in.jsonl'), prompts.join(''));
const texts = ['--prompts_file', inFolder('in.jsonl'), '--max_new_tokens', values.tokens, '--ignore_eos'];
const options = [...texts, '--batch_size', '4', '--threads', '1'];
const whole = inFolder('whole.jsonl');
const dummy = ['--name', inFolder('shape.json'), '--dummy_weights', inFolder('weights')];
execFileSync(process.execPath, [MAIN, 'generate', ...dummy, ...options, '--output', whole], {
  stdio: 'pipe',
});
const made = execFileSync('find', [inFolder('weights'), '-name', '*.safetensors'], {
  encoding: 'utf8',
}).trim();
const model = join(made.split('\n')[0] ?? '', '..');
const weightBytes = Number(execFileSync('du', ['-sb', model], { encoding: 'utf8' }).split('\t')[0]);

const hosts = new Hosts(count, folder);
try {
  await startSshd();
  for (const way of ['streams', 'keeps', 'copies'] as const) {
    const before = hosts.sentBytes();
    const startMs = performance.now();
    const ended = await Promise.all(Array.from({ length: count }, (_, i) => onHost(i + 1, way)));
    const seconds = (performance.now() - startMs) / 1e3;
    const wrong = ended.find(({ status }) => status !== 0);
    if (wrong) throw new Error(wrong.logs.join('\n'));
    const sent = hosts.sentBytes() - before;
    const lines = ended.map((_, i) => linesOf(inFolder(`${way}-${i + 1}.jsonl`)));
    const same = lines.every((text) => text === linesOf(whole));
    const buffered = ended.flatMap(({ logs }) => logs.filter((line) => line.includes('O_DIRECT')));
    process.stdout.write(
      `each of ${count} hosts ${way} them: the server sent ${(sent / MiB).toFixed(0)} MiB, ` +
        `${(sent / weightBytes / count).toFixed(2)} times the weights (${(weightBytes / MiB).toFixed(0)} MiB) to each, ` +
        `${seconds.toFixed(0)} s; texts ${same ? 'as from a local drive' : 'OTHER than from a local drive'}; ` +
        `${buffered[0] ?? 'read with O_DIRECT'}\n`,
    );
    if (!same) process.exitCode = 1;
  }
} finally {
  hosts.close();
}

function linesOf(path: string): string {
  return readFileSync(path, 'utf8').trimEnd().split('\n').sort().join('\n');
}

/** The mount is this host's alone, and goes with it. */
function onHost(host: number, way: 'streams' | 'keeps' | 'copies') {
  const [mount, local] = [inFolder(`mount${host}`), inFolder(`local${host}`)];
  for (const path of [mount, local]) mkdirSync(path, { recursive: true });
  const where = {
    streams: ['--nvme_offload_path', mount],
    keeps: ['--cpu_offload'],
    copies: ['--nvme_offload_path', local],
  }[way];
  const output = ['--output', inFolder(`${way}-${host}.jsonl`)];
  const words = ['generate', '--name', mount, ...where, ...options, ...output];
  const ssh = `ssh -p 2222 -i ${inFolder('key')} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR`;
  const script = `
    sshfs -o ssh_command='${ssh}' root@10.77.0.1:${model} ${mount} || exit 99
    "$@"
    status=$?
    fusermount -u ${mount} 2> /dev/null || umount ${mount}
    exit $status`;
  return hosts.startProgram(host, ['sh', '-c', script, 'sh', process.execPath, MAIN, ...words]).ended;
}

async function startSshd(): Promise<void> {
  for (const name of ['key', 'hostkey']) {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', inFolder(name)]);
  }
  mkdirSync('/run/sshd', { recursive: true });
  const lines = [
    'Port 2222',
    'ListenAddress 10.77.0.1',
    `HostKey ${inFolder('hostkey')}`,
    `AuthorizedKeysFile ${inFolder('key.pub')}`,
    'PermitRootLogin prohibit-password',
    'StrictModes no',
    'UsePAM no',
    'Subsystem sftp internal-sftp',
    `PidFile ${inFolder('sshd.pid')}`,
  ];
  writeFileSync(inFolder('sshd_config'), `${lines.join('\n')}\n`);
  void hosts.startProgram(0, ['/usr/sbin/sshd', '-D', '-e', '-f', inFolder('sshd_config')]);
  await setTimeout(2000);
}
