// Shared by the benchmarks: random checkpoints made once, medians of paired runs, and results as JSON and a line.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatBytes } from '../offload/index.js';
import { writeDummyCheckpoint } from '../src/dummy/weights.js';
import { SHAPE_TYPES, type ShapeType, shapeConfig, shapeTensors } from '../src/engine/shape-tensors.js';
import { buildArchitecture } from '../src/models/registry.js';

/**
 * `--shape NAME` (of configs/models), `--type TYPE`, `--cut JSON` (what is otherwise in the shape) and `--dir FOLDER` for the
 * checkpoint; `--runs N` pairs.
 */
export function readArguments(defaults: { shape: string; runs: number }): {
  shape: string;
  type: ShapeType;
  cut: Config;
  folder: string;
  runs: number;
} {
  const { values } = parseArgs({
    options: {
      shape: { type: 'string', default: defaults.shape },
      type: { type: 'string', default: 'bfloat16' },
      cut: { type: 'string', default: '{}' },
      dir: { type: 'string', default: 'out/bench' },
      runs: { type: 'string', default: String(defaults.runs) },
    },
  });
  const { shape, dir } = values;
  const type = readShapeType(values.type);
  const cut = JSON.parse(values.cut) as Config;
  const kind = [shape, ...(type === 'bfloat16' ? [] : [type]), ...Object.values(cut)];
  return { shape, type, cut, folder: join(dir, kind.join('-')), runs: Number(values.runs) };
}

export function readShapeType(name: string): ShapeType {
  const type = SHAPE_TYPES.find((known) => known === name);
  if (!type) throw new Error(`'${name}' is no type of weights: give one of ${SHAPE_TYPES.join(', ')}`);
  return type;
}

/** A random checkpoint of that shape of configs/models; made at the first call, then reused. */
export function dummyCheckpoint(
  shape: string,
  folder: string,
  type: ShapeType = 'bfloat16',
  cut: Config = {},
): Promise<string> {
  const path = `configs/models/${shape}.json`;
  const makeConfig = () => ({ ...(JSON.parse(readFileSync(path, 'utf8')) as Config), ...cut });
  return checkpointOf(makeConfig, folder, type);
}

type Config = Readonly<Record<string, unknown>>;

/** The same of a config.json's content, which is asked for when the folder has none. */
export async function checkpointOf(
  makeConfig: () => Config,
  folder: string,
  type: ShapeType = 'bfloat16',
): Promise<string> {
  if (existsSync(join(folder, 'config.json'))) return folder;
  const shape = makeConfig();
  const architecture = buildArchitecture(shape, `${folder}/config.json`);
  const config = shapeConfig(shape, architecture, type);
  const tensors = shapeTensors(architecture, type);
  let said = 0;
  await writeDummyCheckpoint({
    config,
    tensors,
    folder,
    seed: 1,
    onProgress: (bytesDone, bytesTotal) => {
      if (bytesDone - said < 2 ** 30 && bytesDone < bytesTotal) return;
      said = bytesDone;
      process.stderr.write(`writing ${folder}: ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}\n`);
    },
  });
  return folder;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low = Number.NaN, high = low] =
    sorted.length % 2 === 1 ? [sorted[middle]] : [sorted[middle - 1], sorted[middle]];
  return (low + high) / 2;
}

/** A share of 1 as a percentage. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

/** The result for programs on stdout, for people on stderr. */
export function printResult(
  question: string,
  line: string,
  figures: Readonly<Record<string, unknown>>,
): void {
  process.stderr.write(`${question}: ${line}\n`);
  process.stdout.write(`${JSON.stringify({ question, ...figures })}\n`);
}
