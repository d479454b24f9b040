// `plan` in this process: what a case asks of its figures needs no process of its own, which starts and warms up each time.

import { assert } from '../../offload/errors.js';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { describeFailure } from '../../src/cli/failure.js';
import { Interrupt } from '../../src/cli/interrupt.js';
import { createLogger } from '../../src/cli/log.js';
import { readPlanCommandOptions } from '../../src/cli/options/plan-options.js';
import { runPlan } from '../../src/cli/plan.js';
import { Progress, StatusLine } from '../../src/cli/progress.js';

const interrupt = new Interrupt(() => undefined);

export interface PlanResult {
  readonly status: number;
  readonly stdout: string;
  readonly errors: readonly string[];
}

/** @param words as behind the program's name, `plan` first */
export async function planHere(words: readonly string[]): Promise<PlanResult> {
  let stdout = '';
  const write = (text: string) => {
    stdout += text;
  };
  const line = new StatusLine({ write: () => undefined }, {});
  const log = createLogger('info', line);
  try {
    const parsed = parseCommandLine(words);
    assert(parsed.kind === 'run' && parsed.command === 'plan', 'words of plan');
    const progress = new Progress(line, log);
    const context = { log, progress, interrupt, write, tell: () => undefined, writesToTerminal: false };
    await runPlan(readPlanCommandOptions(parsed.options), context);
    return { status: 0, stdout, errors: [] };
  } catch (error) {
    const { text, exitStatus } = describeFailure(error, false);
    return { status: exitStatus, stdout, errors: text.split('\n').filter((one) => one !== '') };
  }
}
