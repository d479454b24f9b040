// Do ten minutes of engines under random budgets, with interruptions, refusals and faults, leave anything behind?
//
// node dist/bench/gpu/soak.js [--device cuda] [--gpus 1] [--seconds 600 | --iterations 100] [--seed 1] [--from 0]
//   [--virtual_devices 0] [--models NAME,…] [--dir out/bench] [--samples FILE.jsonl]
//
// Each round opens an engine in this process on one of several models, as its seed says (soak-case.ts), and compares
// its tokens with those of a plain placement. The first half of the run is a lap, the second goes over the same rounds
// again: whatever a driver or an allocator keeps for each new kernel and shape is there by then, so that what still
// grows from the lap's beginning to its end is a leak. Status 1: a round ended otherwise than it must, or something
// grew. `--from N --iterations 1` repeats one round. Device memory is this process's own as the driver counts it, so that others may use the GPU meanwhile;
// where nvidia-smi does not know processes it is all that is taken on the GPU, and others must not.

import { fork } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cudaStatus, formatBytes, OperatingError } from '../../offload/index.js';
import { checkpointOf, printResult } from '../common.js';
import { drawCase, type SoakCase, type SoakDevices } from './soak-case.js';
import { openSoakModel, Soak, type SoakModel } from './soak-run.js';
import { EARLY, type Growth, growthOf, LATE, SECOND_LAP, UsageLog, UsageProbe } from './soak-usage.js';

const FIXTURES =
  'bloom,bloom-6-heads,falcon-40b-style,gemma2,gpt2,gpt_neox,llama,llama-biases,mixtral,opt,phi3-sliding,' +
  'qwen3_moe-unnormalised,starcoder2,gpt_oss-mxfp4,deepseek_v3,deepseek_v4,gemma3_text,qwen3_next,nemotron_h,' +
  'q-fp8-block-llama,q-gptq-int4-llama,shakespeare-bloom';
/** About 200 MB of bfloat16. */
const LARGE = {
  name: 'llama-0.1b',
  config: {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    dtype: 'bfloat16',
    vocab_size: 16000,
    hidden_size: 1024,
    intermediate_size: 2816,
    num_hidden_layers: 6,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    max_position_embeddings: 2048,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: false,
  },
};
/** Rounds; below it medians say nothing. */
const SHORTEST_COMPARED = 60;
const MOST_FAILURES = 5;
const DRIVER_EVERY_MS = 3000;
const CHILD_LIMIT_MS = 60_000;

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    gpus: { type: 'string', default: '1' },
    virtual_devices: { type: 'string', default: '0' },
    seconds: { type: 'string', default: '600' },
    iterations: { type: 'string' },
    seed: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    models: { type: 'string', default: FIXTURES },
    dir: { type: 'string', default: 'out/bench' },
    samples: { type: 'string' },
    bad_table: { type: 'string' },
  },
});
const seed = numberOf('seed', values.seed);
const from = numberOf('from', values.from);
const totalMs = numberOf('seconds', values.seconds) * 1000;
const iterations = values.iterations === undefined ? undefined : numberOf('iterations', values.iterations);
const devices = devicesOf();
const fixtures = values.models.split(',');
const models = new Map<string, SoakModel>();
for (const name of fixtures) models.set(name, await openSoakModel(name, `test/fixtures/models/${name}`));
const large = await checkpointOf(() => LARGE.config, `${values.dir}/${LARGE.name}`);
models.set(LARGE.name, await openSoakModel(LARGE.name, large));

if (values.bad_table === undefined) await soak();
else await new Soak(devices, models).runBadTable(caseOf(numberOf('bad_table', values.bad_table)));

async function soak(): Promise<void> {
  const elsewhere = devices.kind === 'cuda' ? badTableElsewhere : undefined;
  const rounds = new Soak(devices, models, elsewhere);
  const gpus = devices.kind === 'cuda' ? Array.from({ length: devices.count }, (_, index) => index) : [];
  const probe = await UsageProbe.open(gpus, DRIVER_EVERY_MS);
  process.stderr.write(
    `seed ${seed}, ${devices.kind}, ${devices.count} devices with memory of their own; ` +
      `device memory counted: ${probe.deviceCount}\n`,
  );
  const startMs = performance.now();
  const shareDone = (iteration: number) =>
    iterations === undefined ? (performance.now() - startMs) / totalMs : (iteration - from) / iterations;
  const log = new UsageLog();
  const endings = new Map<string, number>();
  const failures: string[] = [];
  let iteration = from;
  let lapRounds: number | undefined;
  for (; shareDone(iteration) < 1 && failures.length < MOST_FAILURES; iteration++) {
    if (lapRounds === undefined && shareDone(iteration) >= SECOND_LAP) lapRounds = iteration - from;
    const one = caseOf(lapRounds ? from + ((iteration - from) % lapRounds) : iteration);
    const ending = await rounds.run(one).catch((error: unknown) => {
      failures.push(`${describe(error)}\n  ${JSON.stringify(one)}`);
      process.stderr.write(`round ${iteration} FAILED: ${failures.at(-1)}\n`);
      return 'FAILED';
    });
    const named = `${one.event}: ${ending}`;
    endings.set(named, (endings.get(named) ?? 0) + 1);
    const sample = { ...(await probe.measure()), at: Math.min(1, shareDone(iteration + 1)) };
    log.add(sample);
    if (values.samples) appendFileSync(values.samples, `${JSON.stringify(sample)}\n`);
  }
  const seconds = (performance.now() - startMs) / 1000;
  const short = iteration - from < SHORTEST_COMPARED || failures.length === MOST_FAILURES;
  const samples = log.samples();
  const growths = short ? [] : growthOf(samples);
  const grown = growths.filter(({ grew }) => grew);
  if (!short && gpus.length > 0 && !growths.some(({ of }) => of === 'device')) {
    failures.push('the memory of the GPU was never measured');
  }
  process.exitCode = failures.length > 0 || grown.length > 0 ? 1 : 0;
  const counts = Object.fromEntries([...endings].sort());
  printResult(
    `soak on ${devices.kind}${devices.count > 0 ? ` ×${devices.count}` : ''}`,
    `${process.exitCode === 0 ? 'clean' : 'FAILED'}: ${iteration - from} rounds in ${seconds.toFixed(0)} s, ` +
      `${rounds.compared} texts and scores compared, ${failures.length} rounds wrong; ` +
      `${growths.length === 0 ? 'too few rounds to compare' : growths.map(growthText).join(', ')}; ` +
      `${JSON.stringify(counts)}`,
    {
      seed,
      ...devices,
      rounds: iteration - from,
      lapRounds,
      seconds,
      comparedTexts: rounds.compared,
      endings: counts,
      deviceCount: probe.deviceCount,
      stretches: { early: EARLY, late: LATE },
      growths,
      failures,
      last: samples.at(-1),
    },
  );
}

function growthText({ of, early, late, tolerance, grew }: Growth): string {
  const text = (value: number) =>
    of === 'files' || of === 'threads' || of === 'mappings' ? `${value}` : formatBytes(value);
  return `${of} ${text(early)} → ${text(late)}${grew ? ` GREW by more than ${text(tolerance)}` : ''}`;
}

function caseOf(iteration: number): SoakCase {
  return drawCase(seed, iteration, [...models.keys()], devices);
}

/** A GPU that failed is lost to its process; that process must end by itself and with status 0 all the same. */
function badTableElsewhere({ iteration }: SoakCase): Promise<void> {
  const args = [...process.argv.slice(2), '--bad_table', String(iteration)];
  const child = fork(fileURLToPath(import.meta.url), args, { timeout: CHILD_LIMIT_MS });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (status, signal) => {
      if (status === 0) resolve();
      else reject(new Error(`a process with a bad table ended with ${signal ?? `status ${status}`}`));
    });
  });
}

function devicesOf(): SoakDevices {
  if (values.device === 'cuda') {
    const { problem } = cudaStatus();
    if (problem !== '') throw new OperatingError('NO_DEVICE', `CUDA cannot be used: ${problem}`);
    return { kind: 'cuda', count: numberOf('gpus', values.gpus) };
  }
  if (values.device === 'cpu')
    return { kind: 'cpu', count: numberOf('virtual_devices', values.virtual_devices) };
  throw new OperatingError('BAD_OPTION', `--device is '${values.device}': give cuda or cpu`);
}

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (text === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new OperatingError('BAD_OPTION', `--${name} is '${text}': give a whole number from 0`);
  }
  return value;
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
