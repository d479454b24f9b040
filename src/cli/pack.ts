// `pack`: a checkpoint of float weights as a store of fewer bits, and what was lost by it.

import { formatBytes, renameKeys, toSnake, useThreads } from '../../offload/index.js';
import type { Score } from '../engine/score.js';
import { isRereadable } from '../files/input.js';
import { checkPlace, type LayerResult, pack } from '../pack/pack.js';
import { preparePack } from '../pack/prepare.js';
import { addLoss, type Loss, NO_LOSS, relativeLoss } from '../pack/record.js';
import { type StoreFile, type StorePlan, unevenness } from '../pack/store-plan.js';
import { textTable } from '../report/text-table.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';
import type { PackCommandOptions } from './options/pack-options.js';
import { scoreText } from './score.js';
import { openSource, type Source } from './source.js';

interface Packed {
  readonly plan: StorePlan;
  readonly layers: readonly LayerResult[];
  readonly seconds: number;
  readonly before: Score | undefined;
  readonly after: Score | undefined;
}

export async function runPack(options: PackCommandOptions, context: CommandContext): Promise<void> {
  const { textFile, folder, settings } = options;
  if (textFile !== undefined && !isRereadable(textFile)) {
    throw badOption('--text_file is read twice, before and after: give a file');
  }
  const source = await openSource(options, context, { tokenizer: textFile !== undefined });
  const { log, progress, interrupt } = context;
  const { checkpoint } = source.opened;
  await checkPlace(checkpoint.folder, folder);
  const prepared = await preparePack(checkpoint, settings);
  const before = await scoreOf(source, options, context);
  const refusal = useThreads(options.cpu.threads ?? 0);
  if (refusal !== '') log.warn(refusal);
  const startMs = performance.now();
  let line = 'looking at the weights';
  const work = pack({
    checkpoint,
    ...prepared,
    gpus: settings.gpus,
    io: options.cpu.io,
    folder,
    signal: interrupt.signal,
    onProgress: (done, total) => {
      line = `packing: ${formatBytes(done)} of ${formatBytes(total)} read`;
    },
    onWait: (holder) => log.info(`${holder} is packing into the same folder: waiting for it`),
    log: (message) => log.info(message),
  });
  const layers = await progress.during(() => line, work);
  const seconds = (performance.now() - startMs) / 1e3;
  const packed =
    textFile === undefined
      ? source
      : await openSource({ ...options, name: folder, revision: undefined }, context);
  const after = await scoreOf(packed, options, context);
  const result = { plan: prepared.plan, layers, seconds, before, after };
  context.write(options.json ? packJson(options, result) : packText(options, result));
}

async function scoreOf(
  source: Source,
  options: PackCommandOptions,
  context: CommandContext,
): Promise<Score | undefined> {
  const { textFile: path } = options;
  if (path === undefined) return undefined;
  const scoring = {
    ...options,
    input: { kind: 'text' as const, path },
    context: undefined,
    batchSize: undefined,
  };
  return scoreText(scoring, source, context);
}

const BLOCK = /^block-0*(\d+)$/;

function packText({ folder, settings }: PackCommandOptions, packed: Packed): string {
  const { plan, layers, seconds, before, after } = packed;
  const all = totalOf(layers);
  const rows = layers.map((layer) => [
    layer.name.replace(BLOCK, 'block $1'),
    formatBytes(layer.sourceBytes),
    formatBytes(layer.storedBytes),
    ...lossCells(layer),
  ]);
  const table = textTable(
    [
      ['', 'read', 'stored', 'lost', 'at most'],
      ...rows,
      ['all', formatBytes(all.sourceBytes), formatBytes(all.storedBytes), ...lossCells(all)],
    ],
    ['left', 'right', 'right', 'right', 'right'],
  );
  const { weights, group, format } = plan.scheme;
  const scales = group === 'channel' ? 'a scale per row' : `a scale per ${group} inputs`;
  const lines = [
    `${folder}: ${weights} (compressed-tensors ${format}, ${scales}), written in ${seconds.toFixed(1)} s`,
    'lost: root mean square of the difference, relative to that of the weights',
  ];
  if (settings.gpus > 1) lines.push(spreadSentence(plan.files, settings.gpus));
  if (before && after) lines.push(scoreSentence(before, after));
  return `${table}${lines.join('\n')}\n`;
}

function lossCells(loss: Loss): string[] {
  if (loss.squares === 0) return ['', ''];
  return [`${(relativeLoss(loss) * 100).toFixed(3)} %`, loss.largestLoss.toPrecision(3)];
}

function spreadSentence(files: readonly StoreFile[], gpus: number): string {
  const { layer, all } = unevenness(files);
  const above = (share: number) => `${Math.round((share - 1) * 100)} %`;
  return (
    `each block in ${gpus} files of whole tensors: the largest has ${above(all)} more than an equal share of all blocks, ` +
    `and up to ${above(layer)} more of a single one`
  );
}

function scoreSentence(before: Score, after: Score): string {
  const change = (after.nll / before.nll - 1) * 100;
  return (
    `negative log-likelihood ${before.nll.toFixed(5)} before, ${after.nll.toFixed(5)} after ` +
    `(${change < 0 ? '' : '+'}${change.toFixed(3)} %), ${before.tokens} tokens`
  );
}

function totalOf(layers: readonly LayerResult[]): LayerResult {
  return layers.reduce(
    (sum, layer) => ({
      name: 'all',
      ...addLoss(sum, layer),
      sourceBytes: sum.sourceBytes + layer.sourceBytes,
      storedBytes: sum.storedBytes + layer.storedBytes,
    }),
    { name: 'all', sourceBytes: 0, storedBytes: 0, ...NO_LOSS },
  );
}

function packJson({ folder, settings }: PackCommandOptions, packed: Packed): string {
  const { plan, layers, seconds, before, after } = packed;
  const described = (layer: LayerResult) => ({
    name: layer.name,
    sourceBytes: layer.sourceBytes,
    storedBytes: layer.storedBytes,
    relativeLoss: relativeLoss(layer),
    largestLoss: layer.largestLoss,
  });
  const { weights, group, format } = plan.scheme;
  const value = {
    folder,
    weights,
    format,
    groupSize: group,
    gpus: settings.gpus,
    largestShare: unevenness(plan.files),
    seconds,
    layers: layers.map(described),
    all: described(totalOf(layers)),
    nllBefore: before?.nll ?? null,
    nllAfter: after?.nll ?? null,
  };
  return `${JSON.stringify(renameKeys(value, toSnake), undefined, 2)}\n`;
}
