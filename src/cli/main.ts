// The program: reads the command line, runs the command, and turns whatever goes wrong into a line and a status.

import { createLogger } from '../log.js';
import { Progress, StatusLine } from '../progress.js';
import { type CommandName, type ParsedCommandLine, parseCommandLine } from './command-line.js';
import type { CommandContext } from './context.js';
import { describeFailure } from './failure.js';
import { Interrupt } from './interrupt.js';
import type { OptionReader } from './option-reader.js';
import { readLogLevel } from './shared-options.js';

const HELP_WIDTH = 100;

/** @param words the command line without node and script. Sets the exit status; the process ends by itself. */
export async function main(words: readonly string[]): Promise<void> {
  const status = new StatusLine(process.stderr);
  let debug = process.env.ZI_DEBUG === '1';
  /** Says why the program ends, and returns the exit status. */
  const tell = (reason: unknown): number => {
    status.clear();
    const { text, exitStatus } = describeFailure(reason, debug);
    process.stderr.write(text);
    return exitStatus;
  };
  const interrupt = new Interrupt(tell);
  try {
    const parsed = parseCommandLine(words, process.stdout.columns ?? HELP_WIDTH);
    if (parsed.kind === 'run') debug ||= ['debug', 'trace'].includes(readLogLevel(parsed.options));
    await execute(parsed, status, interrupt);
  } catch (error) {
    // After an interruption whatever was going on fails in its own way; the interruption is why.
    process.exitCode = tell(interrupt.signal.aborted ? interrupt.signal.reason : error);
  }
}

async function execute(parsed: ParsedCommandLine, status: StatusLine, interrupt: Interrupt): Promise<void> {
  if (parsed.kind === 'print') {
    process.stdout.write(parsed.text);
    return;
  }
  const log = createLogger(readLogLevel(parsed.options), status);
  const writesToTerminal = process.stdout.isTTY === true;
  const write = (text: string) => {
    if (writesToTerminal) status.clear();
    process.stdout.write(text);
  };
  const context = { log, progress: new Progress(status, log), interrupt, write, writesToTerminal };
  await runCommand(parsed.command, parsed.options, context);
  interrupt.signal.throwIfAborted();
}

/** For these the driver starts while the command is loaded. */
const MAY_COMPUTE_ON_A_GPU: ReadonlySet<CommandName> = new Set(['generate', 'score']);

function mayUseGpu(options: OptionReader): boolean {
  return options.text('device') !== 'cpu' && !options.has('virtual_devices');
}

/** Resolves when the driver answers; at once where none is wanted. */
async function startDriver(name: CommandName, options: OptionReader): Promise<void> {
  if (!MAY_COMPUTE_ON_A_GPU.has(name) || !mayUseGpu(options)) return;
  await (await import('../../offload/index.js')).warmCuda();
}

/** Commands are loaded when they run: the help needs no runtime. */
async function runCommand(name: CommandName, options: OptionReader, context: CommandContext) {
  const driver = startDriver(name, options);
  switch (name) {
    case 'generate': {
      const [{ runGenerate }, { readGenerateOptions }, { withEarlyLoad }] = await Promise.all([
        import('./generate.js'),
        import('./generate-options.js'),
        import('./early-load.js'),
      ]);
      return withEarlyLoad(options, context, driver, async (context, available) =>
        runGenerate({ ...readGenerateOptions(options), ...available }, context),
      );
    }
    case 'score': {
      const [{ runScore }, { readScoreOptions }, { withEarlyLoad }] = await Promise.all([
        import('./score.js'),
        import('./score-options.js'),
        import('./early-load.js'),
      ]);
      return withEarlyLoad(options, context, driver, async (context, available) =>
        runScore({ ...readScoreOptions(options), ...available }, context),
      );
    }
    case 'plan': {
      const [{ runPlan }, { readPlanCommandOptions }] = await Promise.all([
        import('./plan.js'),
        import('./plan-options.js'),
      ]);
      return runPlan(readPlanCommandOptions(options), context);
    }
    case 'doctor': {
      const [{ runDoctor }, { readDoctorOptions }] = await Promise.all([
        import('./doctor.js'),
        import('./doctor-options.js'),
      ]);
      return runDoctor(readDoctorOptions(options), context);
    }
  }
}
