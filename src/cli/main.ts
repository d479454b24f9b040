// The program: reads the command line, runs the command, and turns whatever goes wrong into a line and a status.

import { OperatingError } from '../../offload/errors.js';
import { type ParsedCommandLine, parseCommandLine } from './command-line.js';
import type { CommandContext } from './context.js';
import type { EarlyLoad } from './early-load.js';
import { describeFailure } from './failure.js';
import { COMPUTING } from './glance.js';
import { Interrupt } from './interrupt.js';
import { createLogger } from './log.js';
import { readLogLevel } from './log-levels.js';
import type { OptionReader } from './options/option-reader.js';
import type { CommandName } from './options/tables/commands.js';
import { Progress, StatusLine } from './progress.js';

const HELP_WIDTH = 100;

type RunLine = Extract<ParsedCommandLine, { kind: 'run' }>;

/**
 * Sets the exit status; the process ends by itself.
 * @param words the command line without node and script
 * @param early what was begun of it already; ended here in any case
 */
export async function main(words: readonly string[], early?: Promise<EarlyLoad | undefined>): Promise<void> {
  const status = new StatusLine(process.stderr);
  let debug = process.env.ZI_DEBUG === '1';
  /** Says why the program ends, and returns the exit status. */
  const tell = (reason: unknown): number => {
    status.clear();
    const { text, exitStatus } = describeFailure(reason, debug);
    process.stderr.write(text);
    interrupt.told();
    return exitStatus;
  };
  const interrupt = new Interrupt(tell);
  try {
    const parsed = parseCommandLine(words);
    if (parsed.kind === 'run') debug ||= ['debug', 'trace'].includes(readLogLevel(parsed.options));
    await execute(parsed, status, interrupt, early);
  } catch (error) {
    // After an interruption whatever was going on fails in its own way; the interruption is why.
    process.exitCode = tell(interrupt.signal.aborted ? interrupt.signal.reason : error);
  } finally {
    await (await early)?.ahead.close();
    interrupt.endHungUp();
  }
}

async function execute(
  parsed: ParsedCommandLine,
  status: StatusLine,
  interrupt: Interrupt,
  early: Promise<EarlyLoad | undefined> | undefined,
): Promise<void> {
  if (parsed.kind !== 'run') process.stdout.write(await printed(parsed));
  else await run(parsed, status, interrupt, early);
  // Only now is it known whether the last of it could be written.
  await interrupt.stdoutWritten();
  interrupt.signal.throwIfAborted();
}

async function printed(parsed: Exclude<ParsedCommandLine, RunLine>): Promise<string> {
  if (parsed.kind === 'version') return `${(await import('./version.js')).packageVersion()}\n`;
  const { helpText } = await import('./help.js');
  return helpText(parsed.command, process.stdout.columns ?? HELP_WIDTH);
}

async function run(
  parsed: RunLine,
  status: StatusLine,
  interrupt: Interrupt,
  early: Promise<EarlyLoad | undefined> | undefined,
): Promise<void> {
  const { platformProblem } = await import('../../offload/index.js');
  const problem = platformProblem();
  if (problem !== undefined) throw new OperatingError('UNSUPPORTED', problem);
  interrupt.watch((reason) => describeFailure(reason, false).text, parsed.command !== 'serve');
  const log = createLogger(readLogLevel(parsed.options), status);
  const writesToTerminal = process.stdout.isTTY === true;
  const write = (text: string) => {
    if (writesToTerminal) status.clear();
    process.stdout.write(text);
  };
  const tell = (text: string) => status.writeAbove(text);
  const context = { log, progress: new Progress(status, log), interrupt, write, tell, writesToTerminal };
  await runCommand(parsed, context, early);
}

/** A server without a model. One that has a model may run where the address of a queue lies in the environment. */
function isFront(options: OptionReader): boolean {
  return options.has('queue') || (!options.has('name') && Boolean(process.env.ZI_QUEUE));
}

function mayUseGpu(options: OptionReader): boolean {
  return options.text('device') !== 'cpu' && !options.has('virtual_devices');
}

/** Resolves when the driver answers; at once where none is wanted. */
async function startDriver(name: CommandName, options: OptionReader): Promise<void> {
  if (!COMPUTING.has(name) || !mayUseGpu(options) || isFront(options)) return;
  await (await import('../../offload/index.js')).warmCuda();
}

/** Commands are loaded when they run: the help needs no runtime. */
async function runCommand(
  { command: name, options, words }: RunLine,
  context: CommandContext,
  early: Promise<EarlyLoad | undefined> | undefined,
) {
  const driver = startDriver(name, options);
  switch (name) {
    case 'generate': {
      const [{ runGenerate }, { readGenerateOptions }] = await Promise.all([
        import('./generate.js'),
        import('./options/generate-options.js'),
      ]);
      const { begun, available } = await awaitEarly(early, driver, context);
      return runGenerate({ ...readGenerateOptions(options), ...available }, begun);
    }
    case 'chat': {
      const [{ runChat }, { readChatOptions }] = await Promise.all([
        import('./chat.js'),
        import('./options/chat-options.js'),
      ]);
      const { begun, available } = await awaitEarly(early, driver, context);
      return runChat({ ...readChatOptions(options), ...available }, begun);
    }
    case 'serve': {
      if (isFront(options)) {
        const [{ runFront }, { readFrontOptions }] = await Promise.all([
          import('./front.js'),
          import('./options/front-options.js'),
        ]);
        return runFront(readFrontOptions(options), context);
      }
      const [{ runServe }, { readServeOptions }] = await Promise.all([
        import('./serve.js'),
        import('./options/serve-options.js'),
      ]);
      const { begun, available } = await awaitEarly(early, driver, context);
      return runServe({ ...readServeOptions(options), ...available }, begun);
    }
    case 'batch': {
      const [{ runBatchCommand }, { readBatchOptions }] = await Promise.all([
        import('./batch.js'),
        import('./options/batch-options.js'),
      ]);
      const { begun, available } = await awaitEarly(early, driver, context);
      return runBatchCommand({ ...readBatchOptions(options), ...available }, begun);
    }
    case 'score': {
      const [{ runScore }, { readScoreOptions }] = await Promise.all([
        import('./score.js'),
        import('./options/score-options.js'),
      ]);
      const { begun, available } = await awaitEarly(early, driver, context);
      return runScore({ ...readScoreOptions(options), ...available }, begun);
    }
    case 'plan': {
      const [{ runPlan }, { readPlanCommandOptions }] = await Promise.all([
        import('./plan.js'),
        import('./options/plan-options.js'),
      ]);
      return runPlan(readPlanCommandOptions(options), context);
    }
    case 'merge': {
      const [{ runMerge }, { readMergeOptions }] = await Promise.all([
        import('./merge.js'),
        import('./options/merge-options.js'),
      ]);
      return runMerge(readMergeOptions(options, words), context);
    }
    case 'submit': {
      const [{ runSubmit }, { readSubmitOptions }] = await Promise.all([
        import('./queue/submit.js'),
        import('./options/queue-options.js'),
      ]);
      return runSubmit(readSubmitOptions(options), context);
    }
    case 'worker': {
      const [{ runWorker }, { readWorkerOptions }] = await Promise.all([
        import('./queue/worker.js'),
        import('./options/queue-options.js'),
      ]);
      return runWorker(readWorkerOptions(options), context);
    }
    case 'status': {
      const [{ runStatus }, { readStatusOptions }] = await Promise.all([
        import('./queue/status.js'),
        import('./options/queue-options.js'),
      ]);
      return runStatus(readStatusOptions(options), context);
    }
    case 'collect': {
      const [{ runCollect }, { readCollectOptions }] = await Promise.all([
        import('./queue/collect.js'),
        import('./options/queue-options.js'),
      ]);
      return runCollect(readCollectOptions(options), context);
    }
    case 'pack': {
      const [{ runPack }, { readPackOptions }] = await Promise.all([
        import('./pack.js'),
        import('./options/pack-options.js'),
      ]);
      return runPack(readPackOptions(options), context);
    }
    case 'cache': {
      const [{ runCache }, { readCacheOptions }] = await Promise.all([
        import('./cache.js'),
        import('./options/cache-options.js'),
      ]);
      return runCache(readCacheOptions(options, words), context);
    }
    case 'completion': {
      const { runCompletion } = await import('./completion/command.js');
      return runCompletion(words, context);
    }
    case 'doctor': {
      const [{ runDoctor }, { readDoctorOptions }] = await Promise.all([
        import('./doctor.js'),
        import('./options/doctor-options.js'),
      ]);
      return runDoctor(readDoctorOptions(options), context);
    }
  }
}

/** The context with what was begun early, and what plans may then count on. */
async function awaitEarly(
  early: Promise<EarlyLoad | undefined> | undefined,
  driver: Promise<void>,
  context: CommandContext,
): Promise<{ begun: CommandContext; available: { dramAvailableBytes?: number } }> {
  const load = await early;
  if (!load) return { begun: context, available: {} };
  // Whoever asks the driver before it answers keeps JavaScript from queueing reads.
  await driver;
  const { sinceSeconds, dramAvailableBytes } = load;
  const now = performance.now() / 1e3;
  context.log.debug(
    `reading layers since ${sinceSeconds.toFixed(2)} s; devices can be asked at ${now.toFixed(2)} s`,
  );
  return { begun: { ...context, early: load }, available: { dramAvailableBytes } };
}
