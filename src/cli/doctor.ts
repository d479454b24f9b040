// `doctor`: what this machine allows, what it lacks and how to mend it; and its description, for plans.

import { OperatingError, profileText, renameKeys, toSnake } from '../../offload/index.js';
import { diagnose, doctorText } from '../doctor/doctor.js';
import type { CommandContext } from './context.js';
import type { DoctorOptions } from './options/doctor-options.js';
import { checkFiles } from './results/run-files.js';
import { writeOutput } from './session.js';

export async function runDoctor(options: DoctorOptions, context: CommandContext): Promise<void> {
  const { paths, save, json } = options;
  for (const path of paths.length > 0 ? paths : [undefined]) {
    checkFiles({ '--path': path }, { '--save': save }, path);
  }
  const work = diagnose(paths, context.interrupt.signal);
  const { findings, machine } = await context.progress.during(() => 'measuring this machine', work);
  if (json) {
    const all = renameKeys({ findings, machine: machine ?? null }, toSnake);
    context.write(`${JSON.stringify(all, undefined, 2)}\n`);
  } else {
    context.write(doctorText(findings));
  }
  if (save === undefined) return;
  if (!machine) {
    throw new OperatingError(
      'NO_DEVICE',
      'nothing is saved, because this processor lacks the instructions that the kernels need',
    );
  }
  await writeOutput(save, profileText(machine), '--save', context);
  context.log.info(`wrote ${save}: give it to plan --machine`);
}
