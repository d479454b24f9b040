// An engine for a command's work: opened with its options, closed with it or by an interruption.

import { chromeJson, type Workload } from '../../offload/index.js';
import { budgetWarnings } from '../engine/budget.js';
import { transferFor } from '../engine/devices.js';
import { Engine } from '../engine/engine.js';
import type { EngineOptions } from '../engine/engine-options.js';
import { describePlacement } from '../engine/placement.js';
import { planFor } from '../engine/plan-for.js';
import {
  bestWay,
  betweenOf,
  type PossibleWay,
  planOfWay,
  possibleWays,
  weighWays,
  whyWay,
} from '../engine/ways.js';
import { writeWherever } from '../files/output-file.js';
import { isStdout } from '../files/output-target.js';
import { isPage, reportPage } from '../report/html.js';
import type { Limits } from '../report/limits.js';
import { Meter } from '../report/meter.js';
import { planDetails } from '../report/plan-text.js';
import {
  type ReportFigures,
  reportFigures,
  reportJson,
  streamingLines,
  streamingSentence,
} from '../report/report.js';
import type { DriveShare } from '../staging/staging.js';
import type { CommandContext } from './context.js';
import { planOptionsFor, warningsFor } from './options/ds-config-options.js';
import type { SharedOptions } from './options/shared-settings.js';
import type { Source } from './source.js';

export interface Session {
  readonly engine: Engine;
  readonly meter: Meter;
  readonly notes: readonly string[];
  /** From the start of the process until work could begin. */
  readonly readySeconds: number;
}

/** How an engine is opened, or would be, for that workload. */
export function engineOptions(source: Source, options: SharedOptions, workload: Workload): EngineOptions {
  return {
    offload: options.offload,
    ...(options.dramBudgetBytes === undefined ? {} : { dramBudgetBytes: options.dramBudgetBytes }),
    ...(options.dramAvailableBytes === undefined ? {} : { dramAvailableBytes: options.dramAvailableBytes }),
    workload,
    plan: {
      ...planOptionsFor(options, source.opened.model),
      ...planOfWay(options.parallel, options.deviceCount),
    },
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

export interface SessionWork {
  readonly source: Source;
  readonly options: SharedOptions;
  readonly workload: Workload;
  /** The same with so many batches at once; default as it is. */
  readonly workloadOf?: (batches: number) => Workload;
  /** So many there are at once, at most; default as many as there is room for. */
  readonly texts?: number;
  readonly context: CommandContext;
}

/** With `--parallel auto`, the way that takes the work least time. */
async function settled(asked: SessionWork): Promise<SessionWork> {
  const { source, options, context, workloadOf = () => asked.workload } = asked;
  if (options.parallel !== 'auto') return asked;
  if (options.deviceCount === 1) return { ...asked, options: { ...options, parallel: 'streams' } };
  // Measured once, and kept for the run.
  const transfer = await transferFor(engineOptions(source, options, asked.workload), source.opened.model);
  const optionsOf = ({ way, batches }: PossibleWay): SharedOptions => ({
    ...options,
    parallel: way,
    batchCount: batches,
    plan: { ...options.plan, ...(way === 'streams' ? { transfer } : {}) },
  });
  const between = betweenOf(transfer);
  const ways = weighWays(possibleWays(source.opened, options.deviceCount), {
    workloadOf,
    planOf: (way, opened, workload) =>
      planFor(opened.model, engineOptions({ ...source, opened }, optionsOf(way), workload)),
    between,
    texts: asked.texts,
  });
  const best = bestWay(ways);
  context.log.info(whyWay(ways, between));
  return {
    ...asked,
    source: { ...source, opened: best.opened ?? source.opened },
    options: optionsOf(best),
    workload: workloadOf(best.batches),
  };
}

/** Runs `work` with an engine and closes it in any case. */
export async function withSession<T>(asked: SessionWork, work: (session: Session) => Promise<T>): Promise<T> {
  const { source, options, workload, context } = await settled(asked);
  const { log, interrupt, progress } = context;
  interrupt.signal.throwIfAborted();
  for (const line of budgetWarnings(options)) log.warn(line);
  const { opened } = source;
  // Devices that share every layer have another model of the same files.
  const isEarly = context.early?.opened.checkpoint === opened.checkpoint && source.drives === undefined;
  const ahead = isEarly ? context.early?.ahead : undefined;
  const startMs = performance.now();
  const tell = (what: string) => log.info(what);
  const engine = await Engine.open(opened, { ...engineOptions(source, options, workload), tell }, ahead);
  const forget = interrupt.onStop(() => engine.close());
  try {
    log.debug(`planned, allocated and opened in ${(performance.now() - startMs).toFixed(0)} ms`);
    for (const line of planDetails(engine.plan)) log.debug(line);
    const readySeconds = performance.now() / 1e3;
    const notes = [...opened.warnings, ...engine.backend.notes];
    for (const note of engine.backend.notes) log.warn(note);
    for (const line of warningsFor(options, engine.model, engine.plan)) log.warn(line);
    log.info(`ready in ${readySeconds.toFixed(2)} s: ${describePlacement(engine.plan)}`);
    const drives = source.drives ?? [];
    const meter = new Meter(engine.trace, engine.plan, {
      folders: drives.map(({ folder }) => folder),
      figures: () => engine.backend.driveFigures(),
    });
    const result = await work({ engine, meter, notes, readySeconds });
    meter.experts = await engine.executor.slotCounts();
    meter.rows = engine.executor.rowCounts;
    await learn(drives, options, meter, log);
    return result;
  } finally {
    progress.stop();
    forget();
    await engine.close();
  }
}

/** Rates that the user says are not ours to correct. */
async function learn(
  drives: readonly DriveShare[],
  { offloadDrives }: SharedOptions,
  meter: Meter,
  log: Pick<CommandContext['log'], 'warn'>,
): Promise<void> {
  if (drives.length === 0) return;
  const { learnRates } = await import('../stored/weights-on-drives.js');
  const isSaid = offloadDrives.every(({ bytesPerSecond }) => bytesPerSecond !== undefined);
  const line = isSaid ? undefined : await learnRates(drives, meter.drives, process.env);
  if (line !== undefined) log.warn(line);
}

/** What a command has to show for its work. */
export interface Outcome {
  readonly command: string;
  readonly source: Source;
  readonly session: Session;
  readonly options: SharedOptions;
  readonly context: CommandContext;
  readonly limits: Limits;
  /** The command's own, for the report. */
  readonly figures: Readonly<Record<string, unknown>>;
  /** What was done, and how fast: the last line begins with it. */
  readonly summary: string;
}

/** After the engine is closed: what was done and streamed, in a line, and the files that were asked for. */
export async function finishSession(outcome: Outcome): Promise<void> {
  const { options, context, session, summary } = outcome;
  const { engine, meter } = session;
  context.log.info(`${summary}; ${streamingSentence(meter, engine.plan)}`);
  for (const line of streamingLines(meter, outcome.limits)) context.log.debug(line);
  if (engine.trace.droppedSpans > 0) {
    context.log.warn(
      `--trace holds the first of what happened: ${engine.trace.droppedSpans} spans more were left out`,
    );
  }
  if (options.trace !== undefined)
    await writeOutput(options.trace, chromeJson(engine.trace.spans), '--trace', context);
  if (options.report !== undefined) {
    const figures = reportOf(outcome);
    const text = isPage(options.report) ? reportPage(figures, meter.series, new Date()) : reportJson(figures);
    await writeOutput(options.report, text, '--report', context);
  }
}

function reportOf({ command, source, session, options, limits, figures }: Outcome): ReportFigures {
  const { engine, meter, notes, readySeconds } = session;
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
  return reportFigures(context, figures);
}

/** To stdout with what else goes there, in its order. */
export async function writeOutput(
  path: string,
  text: string,
  option: string,
  { write, interrupt }: CommandContext,
): Promise<void> {
  if (isStdout(path)) write(text);
  else await writeWherever(path, text, option, interrupt.signal);
}
