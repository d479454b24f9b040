// `--shard`: which of several equal shares of the prompts a run makes, said outright or by the scheduler that started it.

import { badOption, type OptionReader } from './option-reader.js';

/** Every `count`-th prompt, from the one at `index` on: prompts that come after others change nobody's share of these. */
export interface Share {
  readonly index: number;
  readonly count: number;
}

export const WHOLE: Share = { index: 0, count: 1 };

type Environment = Readonly<Record<string, string | undefined>>;

const MOST_SHARES = 1_000_000;
const FORMS = 'give I/N with I from 0 to N - 1, such as 0/8, or auto, or auto/N';

/** Undefined where it is not given. Throws BAD_OPTION. */
export function readShare(options: OptionReader, environment: Environment = process.env): Share | undefined {
  const text = options.path('shard');
  if (text === undefined) return undefined;
  const [, index = '', count] = /^(auto|\d+)(?:\/(\d+))?$/.exec(text) ?? [];
  if (index === '' || (index !== 'auto' && count === undefined)) {
    throw badOption(`--shard is '${text}': ${FORMS}`);
  }
  const share =
    index === 'auto'
      ? shareOfScheduler(count === undefined ? undefined : Number(count), environment)
      : { index: Number(index), count: Number(count) };
  if (share.count >= 1 && share.count <= MOST_SHARES && share.index < share.count) return share;
  const found = index === 'auto' ? ` is ${share.index}/${share.count} here` : '';
  throw badOption(`--shard is '${text}'${found && `, which${found}`}: ${FORMS}`);
}

/** @param count undefined where the scheduler is to say it as well */
function shareOfScheduler(count: number | undefined, environment: Environment): Share {
  const number = (name: string) => numberIn(environment, name);
  const completion = number('JOB_COMPLETION_INDEX');
  if (completion !== undefined) {
    if (count !== undefined) return { index: completion, count };
    throw badOption(
      '--shard is auto, and Kubernetes says an index but not of how many: give auto/N with the completions of the job',
    );
  }
  const [task, first] = [number('SLURM_ARRAY_TASK_ID'), number('SLURM_ARRAY_TASK_MIN') ?? 0];
  const array = task === undefined ? undefined : arrayShare(task, first, count, number);
  // Set for what srun starts alone: a batch script that is not started by it has the rank 0 of however many tasks.
  const ranks = number('SLURM_STEP_NUM_TASKS');
  const rank = number('SLURM_PROCID') ?? 0;
  if (ranks === undefined || ranks === 1) {
    if (array) return array;
    if (ranks === 1 && count === undefined) return { index: rank, count: ranks };
    const tasks = number('SLURM_NTASKS') ?? 0;
    throw badOption(
      tasks > 1
        ? `--shard is auto, and this job has ${tasks} tasks, none of which srun has started: begin the line with srun`
        : '--shard is auto, but neither Slurm (SLURM_ARRAY_TASK_ID, or SLURM_PROCID of srun) nor Kubernetes ' +
            '(JOB_COMPLETION_INDEX) says which share this is: give I/N',
    );
  }
  if (!array) return { index: rank, count: count ?? ranks };
  // With a count that is given, it is of the array's tasks and ranks together already.
  const all = count ?? array.count * ranks;
  return { index: array.index * ranks + rank, count: all };
}

/** Tasks that are run again, as --array=3,7 does, count from 0 and need the number of all. */
function arrayShare(
  task: number,
  first: number,
  count: number | undefined,
  number: (name: string) => number | undefined,
): Share {
  if (count !== undefined) return { index: task, count };
  const [tasks, step, last] = [
    number('SLURM_ARRAY_TASK_COUNT') ?? 0,
    number('SLURM_ARRAY_TASK_STEP') ?? 1,
    number('SLURM_ARRAY_TASK_MAX') ?? task,
  ];
  if ((last - first) % step === 0 && (last - first) / step + 1 === tasks) {
    return { index: (task - first) / step, count: tasks };
  }
  throw badOption(
    `--shard is auto, and the ${tasks} tasks of this array are not all from ${first} to ${last}: give auto/N with the number ` +
      'of all shares, whose array begins at 0',
  );
}

function numberIn(environment: Environment, name: string): number | undefined {
  const text = environment[name];
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** `share-00003-of-00008.jsonl`: in a listing, shares come in their order. */
export function shareFile({ index, count }: Share): string {
  const digits = (value: number) => String(value).padStart(5, '0');
  return `share-${digits(index)}-of-${digits(count)}.jsonl`;
}

/** As it is said to people and kept beside results. */
export function shareName({ index, count }: Share): string {
  return `${index}/${count}`;
}
