// The jobs for Kubernetes: only fields that the API has, in their places and of their types, and words that this program takes.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { z } from 'zod';
import { ERROR_CODES } from '../../offload/errors.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const FOLDER = join(import.meta.dirname, '../../configs/cluster');

type Node = string | number | boolean | Node[] | { [name: string]: Node };

function scalar(text: string): Node {
  if (/^\[.*\]$/.test(text)) return text.slice(1, -1).split(', ').map(scalar);
  if (/^".*"$/.test(text)) return JSON.parse(text) as string;
  if (/^-?\d+$/.test(text)) return Number(text);
  return text === 'true' || text === 'false' ? text === 'true' : text;
}

/** What these files use of YAML: mappings, lists of mappings or texts, and lists of numbers on one line. Throws at anything else. */
function parseYaml(text: string): Node {
  const lines = text
    .split('\n')
    .filter((line) => line.trim() !== '' && !/^\s*#/.test(line))
    .map((line) => ({ indent: line.search(/\S/), text: line.trim() }));
  const read = (indent: number): Node => {
    const isList = lines[0]?.text.startsWith('- ') ?? false;
    const [list, map]: [Node[], { [name: string]: Node }] = [[], {}];
    while (lines[0]?.indent === indent && lines[0].text.startsWith('- ') === isList) {
      const [line] = lines as [{ indent: number; text: string }];
      if (isList) {
        const item = line.text.slice(2);
        if (/^[\w./-]+:( |$)/.test(item)) {
          lines[0] = { indent: indent + 2, text: item };
          list.push(read(indent + 2));
          continue;
        }
        lines.shift();
        list.push(scalar(item));
        continue;
      }
      const [, name, value] = /^([\w./-]+):(?: (.+))?$/.exec(line.text) ?? [];
      if (name === undefined || name in map) throw new Error(`not understood: ${line.text}`);
      lines.shift();
      const below = lines[0]?.indent ?? 0;
      map[name] = value === undefined ? read(below > indent ? below : Number.NaN) : scalar(value);
    }
    return isList ? list : map;
  };
  const whole = read(0);
  if (lines.length > 0) throw new Error(`not understood: ${lines[0]?.text}`);
  return whole;
}

const name = z.string().regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/);
const count = z.int().nonnegative();
const quantity = z.string().regex(/^\d+(Gi|Mi)?$/);
const ENV = z.union([
  z.strictObject({ name: z.string(), value: z.string() }),
  z.strictObject({
    name: z.string(),
    valueFrom: z.strictObject({ secretKeyRef: z.strictObject({ name, key: z.string() }) }),
  }),
]);
const POD = z.strictObject({
  restartPolicy: z.enum(['Never', 'OnFailure']),
  terminationGracePeriodSeconds: count,
  securityContext: z.strictObject({ runAsNonRoot: z.boolean() }),
  containers: z.tuple([
    z.strictObject({
      name,
      image: z.string(),
      args: z.array(z.string()),
      env: z.array(ENV),
      resources: z.strictObject({ limits: z.record(z.enum(['nvidia.com/gpu', 'memory']), quantity) }),
      volumeMounts: z.array(z.strictObject({ name, mountPath: z.string().startsWith('/') })),
    }),
  ]),
  volumes: z.array(z.strictObject({ name, persistentVolumeClaim: z.strictObject({ claimName: name }) })),
});
const RULE = z.union([
  z.strictObject({
    action: z.literal('FailJob'),
    onExitCodes: z.strictObject({ containerName: name, operator: z.literal('In'), values: z.array(count) }),
  }),
  z.strictObject({
    action: z.literal('Ignore'),
    onPodConditions: z.array(z.strictObject({ type: z.string(), status: z.enum(['True', 'False']) })),
  }),
]);
/** The part of the API's schema of `batch/v1` that a job for this program needs. */
const JOB = z.strictObject({
  apiVersion: z.literal('batch/v1'),
  kind: z.literal('Job'),
  metadata: z.strictObject({ name }),
  spec: z.strictObject({
    completionMode: z.literal('Indexed').optional(),
    completions: count.optional(),
    parallelism: count,
    backoffLimit: count.optional(),
    backoffLimitPerIndex: count.optional(),
    maxFailedIndexes: count.optional(),
    podFailurePolicy: z.strictObject({ rules: z.array(RULE) }).optional(),
    template: z.strictObject({ spec: POD }),
  }),
});

function jobOf(file: string) {
  const { spec } = JOB.parse(parseYaml(readFileSync(join(FOLDER, file), 'utf8')));
  const [container] = spec.template.spec.containers;
  return { spec, container };
}

it('a field that the API does not have is refused', () => {
  const text = readFileSync(join(FOLDER, 'workers.yaml'), 'utf8').replace('backoffLimit:', 'backOffLimit:');
  expect(() => JOB.parse(parseYaml(text))).toThrow(/backOffLimit/);
});

it('each pod of the indexed job makes its share, and the statuses that end it are those that stay', async () => {
  const { spec, container } = jobOf('indexed-job.yaml');
  expect(container.args).toContain(`--shard=auto/${spec.completions}`);
  const rule = spec.podFailurePolicy?.rules[0];
  const ending = rule?.action === 'FailJob' ? rule.onExitCodes.values : [];
  const passing = ['READ_FAILED', 'NO_DEVICE', 'INTERRUPTED'] as const;
  for (const code of passing) expect(ending).not.toContain(ERROR_CODES[code].exitStatus);
  const staying = Object.values(ERROR_CODES).filter(({ exitStatus }) => exitStatus < 8);
  expect([...new Set(staying.map(({ exitStatus }) => exitStatus))].sort()).toEqual(ending);
  // The container's words, with a model and prompts of its own.
  const data = newFolder();
  const model = join(data, 'models/NAME');
  mkdirSync(model, { recursive: true });
  for (const file of ['config.json', 'model.safetensors'])
    copyFileSync(join(modelFolder('bloom'), file), join(model, file));
  const prompts = Array.from({ length: 9 }, (_, i) => `${JSON.stringify({ prompt_token_ids: [i + 1] })}\n`);
  writeFileSync(join(data, 'prompts.jsonl'), prompts.join(''));
  mkdirSync(join(data, 'shares'));
  const words = container.args.map((word) => word.replace('/data', data));
  const { status, errors } = await runCli(
    [...words, '--max_new_tokens=2', '--batch_size=2'].filter((word) => !/=(200|auto)$/.test(word)),
    { env: { JOB_COMPLETION_INDEX: '0' } },
  );
  expect([status, errors]).toEqual([0, []]);
  const share = readFileSync(join(data, 'shares/share-00000-of-00008.jsonl'), 'utf8').trimEnd().split('\n');
  expect(share.map((line) => (JSON.parse(line) as { index: number }).index).sort()).toEqual([0, 8]);
});

it('a worker takes the queue from its environment', async () => {
  const { container } = jobOf('workers.yaml');
  expect(container.env.map((one) => one.name)).toEqual(['ZI_QUEUE']);
  const { status, errors } = await runCli(container.args, { env: { ZI_QUEUE: 'redis:6379' } });
  expect([status, errors.join()]).toEqual([
    2,
    expect.stringContaining('--queue is no address of a Redis server'),
  ]);
});
