// An engine for a command's work: opened with its options, closed with it or by an interruption.

import { resolve } from 'node:path';
import type { Workload } from '../../offload/index.js';
import { describePlacement, Engine, type EngineOptions } from '../engine.js';
import type { Limits } from '../limits.js';
import { Meter } from '../meter.js';
import { checkWritable, writeWhole } from '../output-file.js';
import { reportJson, streamingSentence } from '../report.js';
import type { CommandContext } from './context.js';
import { planOptionsFor, warningsFor } from './ds-config-options.js';
import { badOption } from './option-reader.js';
import type { SharedOptions } from './shared-options.js';
import type { Source } from './source.js';

export interface Session {
  readonly engine: Engine;
  readonly meter: Meter;
  readonly notes: readonly string[];
  /** From the start of the process until work could begin. */
  readonly readySeconds: number;
}

/**
 * Before anything is loaded: a run of hours must not end with a file that cannot be written, nor one option's file
 * take the place of another's. Both lists are of option names and their paths.
 */
export function checkFiles(
  inputs: Readonly<Record<string, string | undefined>>,
  outputs: Readonly<Record<string, string | undefined>>,
): void {
  const seen = new Map<string, string>();
  for (const [option, path] of [...Object.entries(inputs), ...Object.entries(outputs)]) {
    if (path === undefined) continue;
    if (option in outputs) checkWritable(path, option);
    const other = seen.get(resolve(path));
    // Devices such as /dev/null take whatever they are given.
    if (other && !path.startsWith('/dev/')) {
      throw badOption(`${other} and ${option} are both ${path}: give each a file of its own`);
    }
    seen.set(resolve(path), option);
  }
}

/** How an engine is opened, or would be, for that workload. */
export function engineOptions(source: Source, options: SharedOptions, workload: Workload): EngineOptions {
  return {
    offload: options.offload,
    ...(options.dramBudgetBytes === undefined ? {} : { dramBudgetBytes: options.dramBudgetBytes }),
    ...(options.dramAvailableBytes === undefined ? {} : { dramAvailableBytes: options.dramAvailableBytes }),
    workload,
    plan: planOptionsFor(options, source.opened.model),
    ...(options.deviceBudgetBytes === undefined ? {} : { deviceBudgetBytes: options.deviceBudgetBytes }),
    device: options.device,
    ...(options.gather === undefined ? {} : { gather: options.gather }),
    cpu: options.cpu,
    cuda: {
      devices: [...Array(options.deviceCount).keys()],
      ...(options.cpu.io === undefined ? {} : { io: options.cpu.io }),
    },
    keepSpans: options.trace !== undefined,
    files: source.files,
    fileStates: source.fileStates,
  };
}

/** Runs `work` with an engine and closes it in any case. */
export async function withSession<T>(
  source: Source,
  options: SharedOptions,
  workload: Workload,
  context: CommandContext,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  const { log, interrupt, progress } = context;
  interrupt.signal.throwIfAborted();
  const { opened } = source;
  const ahead = context.early?.opened === opened ? context.early.ahead : undefined;
  const engine = await Engine.open(opened, engineOptions(source, options, workload), ahead);
  const forget = interrupt.onStop(() => engine.close());
  try {
    const readySeconds = performance.now() / 1e3;
    const notes = [...opened.warnings, ...engine.backend.notes];
    for (const note of engine.backend.notes) log.warn(note);
    for (const line of warningsFor(options, engine.model, engine.plan)) log.warn(line);
    log.info(`ready in ${readySeconds.toFixed(2)} s: ${describePlacement(engine.plan)}`);
    return await work({ engine, meter: new Meter(engine.trace, engine.plan), notes, readySeconds });
  } finally {
    progress.stop();
    forget();
    await engine.close();
  }
}

/** After the engine is closed: the sentence about what was streamed, and the files that were asked for. */
export function finishSession(
  command: string,
  source: Source,
  { engine, meter, notes, readySeconds }: Session,
  options: SharedOptions,
  { log }: CommandContext,
  limits: Limits,
  /** The command's own figures. */
  extra: Readonly<Record<string, unknown>>,
): void {
  log.info(streamingSentence(meter, engine.plan));
  if (options.trace !== undefined) writeWhole(options.trace, engine.trace.toChromeJson(), '--trace');
  if (options.report === undefined) return;
  const { checkpoint, model } = source.opened;
  const context = {
    command,
    model: {
      name: options.name,
      folder: checkpoint.folder,
      architecture: model.architecture,
      blocks: model.blocks.length,
      weight_bytes: checkpoint.totalBytes,
    },
    plan: engine.plan,
    meter,
    limits,
    notes,
    readySeconds,
  };
  writeWhole(options.report, reportJson(context, extra), '--report');
}
