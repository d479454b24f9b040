// What is to be done of a job: all of it, or what its results lack.

import { counted } from '../../../offload/index.js';
import type { CommandContext } from '../context.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { damagedPath, type RunSettings } from '../results/file.js';
import type { Identity } from '../results/identity.js';
import type { FinishedTexts } from '../results/lines.js';
import { finishedTexts, NOTHING_FINISHED, promptsDigest, settingsOf } from '../results/resume.js';
import type { Source } from '../source.js';
import { type Job, openPlaces, textCount } from './job.js';

/** What is to be done of a job: all of it, or what its results lack. */
export interface Task {
  readonly job: Job;
  readonly options: GenerateOptions;
  readonly settings: RunSettings;
  readonly finished: FinishedTexts;
  /** Places of the texts that are to be made. */
  readonly open: Int32Array;
}

export function makeTask(
  source: Source,
  job: Job,
  options: GenerateOptions,
  identity: Identity | undefined,
): Task {
  const { resume, output } = options;
  const settled = { ...job, promptsDigest: promptsDigest(job.prompts) };
  const settings = settingsOf(source, settled, options, identity);
  const finished = resume && output !== undefined ? finishedTexts(output, settings, job) : NOTHING_FINISHED;
  return { job, options, settings, finished, open: openPlaces(job, finished.places) };
}

export function describeTask({ job, options, finished, open }: Task, { log }: CommandContext): void {
  const texts = textCount(job);
  if (options.resume) {
    const torn =
      finished.tornBytes > 0
        ? `, and a line that was cut off after ${counted(finished.tornBytes, 'byte')}`
        : '';
    log.info(
      `${options.output} has ${finished.places.size} of ${counted(texts, 'text')}${torn}; ${open.length} are to be made`,
    );
    if (finished.damaged.length > 0) {
      log.warn(
        `${finished.damaged.length} lines of ${options.output} are damaged or come twice: they are moved to ` +
          `${damagedPath(options.output ?? '')}, and what they lack is made again`,
      );
    }
  }
  const { impossible, firstProblem } = job.sizes;
  if (firstProblem) {
    log.warn(
      `${impossible * job.samples} of ${counted(texts, 'text')} cannot be made, and their results say why: ${firstProblem.message}`,
    );
  }
}
