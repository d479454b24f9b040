// `open`: a model becomes an engine, or an error that says why not, with nothing left behind.

import { detectHardware } from '../../offload/index.js';
import { transferFor } from '../engine/devices.js';
import { Engine as ModelEngine } from '../engine/engine.js';
import type { EngineOptions } from '../engine/engine-options.js';
import { planFor } from '../engine/plan-for.js';
import { bestWay, betweenOf, openedAs, planOfWay, possibleWays, weighWays, whyWay } from '../engine/ways.js';
import { partsOf } from './engine-parts.js';
import { type ModelSource, openSource } from './model-source.js';
import { type OpenSettings, readOpenOptions } from './open-options.js';
import { inOwnWords } from './own-words.js';
import { following } from './signals.js';
import { TextEngine } from './text-engine.js';
import type { Engine, OpenOptions } from './types.js';
import { workloadFor } from './workload.js';

/**
 * Opens a model: the folder of a checkpoint in the Hugging Face layout, or a model of the hub such as
 * `bigscience/bloom-560m`, which is downloaded into Python's cache unless it is there. The environment says where that
 * is, and with which token to ask (`HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`).
 *
 * Headers are read and memory is allocated, but weights are read by the first text. Close the engine when it is no longer
 * needed. Rejects with an OperatingError: BAD_OPTION for what is wrong with `options`; NOT_FOUND, NO_ACCESS and
 * DOWNLOAD_FAILED; what is wrong with the files, such as UNSUPPORTED or BAD_SAFETENSORS; DOES_NOT_FIT with the smallest
 * memory that would do; NO_DEVICE and SYSTEM_LIMIT. Other errors are faults of this package.
 */
export async function open(model: string, options?: OpenOptions): Promise<Engine> {
  try {
    const settings = readOpenOptions(model, options);
    return await following(settings.signal, (signal) => openModel(settings, signal));
  } catch (error) {
    throw inOwnWords(error);
  }
}

async function openModel(asked: OpenSettings, signal: AbortSignal): Promise<Engine> {
  const opened = await openSource(asked, signal);
  const settings = await settled(asked, opened);
  const source = shared(opened, settings);
  const engineOptions = await optionsFor(settings, source);
  signal.throwIfAborted();
  const engine = await ModelEngine.open(source.opened, engineOptions);
  try {
    const parts = partsOf(engine, source, settings, engineOptions.workload.contextTokens);
    signal.throwIfAborted();
    for (const warning of parts.info.warnings) settings.logger.warn(warning);
    settings.logger.info(`${parts.info.folder} is open: ${parts.info.placement}`);
    return new TextEngine(parts);
  } catch (error) {
    await engine.close();
    throw error;
  }
}

/** With `auto`, the way to share the work that takes least time. */
async function settled(asked: OpenSettings, source: ModelSource): Promise<OpenSettings> {
  const { parallel, deviceCount, logger } = asked;
  if (parallel !== 'auto') return asked;
  const streams: OpenSettings = { ...asked, parallel: 'streams' };
  if (deviceCount === 1) return streams;
  const { workload, plan, ...options } = await optionsFor(streams, source);
  const between = betweenOf(plan?.transfer);
  const ways = weighWays(possibleWays(source.opened, deviceCount), {
    workloadOf: () => workload,
    planOf: (way, { model }) => planFor(model, { ...options, workload, plan: { ...plan, ...way.plan } }),
    between,
  });
  logger.info(whyWay(ways, between));
  return { ...asked, parallel: bestWay(ways).way };
}

/** As several GPUs compute it that share every layer. */
function shared(source: ModelSource, { parallel, deviceCount }: OpenSettings): ModelSource {
  return { ...source, opened: openedAs(source.opened, parallel, deviceCount) };
}

async function optionsFor(
  settings: OpenSettings,
  { opened, files, fileStates }: ModelSource,
): Promise<EngineOptions> {
  const { offload, dramBudgetBytes, deviceBudgetBytes, kvOffload, kvType } = settings;
  const { device, deviceCount, parallel, threads, computesInFloats } = settings;
  const options = {
    offload,
    device,
    // Plans are compared, so all of them are made with what is available now.
    dramAvailableBytes: detectHardware().dramAvailableBytes,
    ...(dramBudgetBytes === undefined ? {} : { dramBudgetBytes }),
    ...(deviceBudgetBytes === undefined ? {} : { deviceBudgetBytes }),
    cpu: threads === undefined ? {} : { threads },
    cuda: { devices: [...Array(deviceCount).keys()] },
    files,
    fileStates,
  } satisfies Omit<EngineOptions, 'workload'>;
  const inStages = planOfWay(parallel, deviceCount);
  const plan = {
    ...inStages,
    ...(kvOffload ? { kvOffload } : {}),
    ...(kvType === undefined ? {} : { kvType }),
    ...(computesInFloats ? ({ activationType: 'f32' } as const) : {}),
    transfer: await transferFor({ ...options, plan: inStages, workload: ONE }, opened.model),
  };
  const { model } = opened;
  const workload = workloadFor(settings, model.maxContextTokens, (some) =>
    planFor(model, { ...options, plan, workload: some }),
  );
  return { ...options, plan, workload };
}

/** How devices are reached depends on no workload. */
const ONE = { sequences: 1, contextTokens: 1, promptTokens: 1, output: 'tokens' } as const;
