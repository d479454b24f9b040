// `collect`: the results of a job from its queue into a file, each line once, until all are there.

import { counted, OperatingError } from '../../../offload/index.js';
import { PlaceSet } from '../../files/place-set.js';
import { collectResults } from '../../queue/collection.js';
import { QueueConnection } from '../../queue/connection.js';
import { asked, type KeptJob, readJob } from '../../queue/record.js';
import { checkServer } from '../../queue/server.js';
import type { CommandContext } from '../context.js';
import { badOption } from '../options/option-reader.js';
import type { CollectOptions } from '../options/queue-options.js';
import { checkSettings, type RunSettings, readSettings, resultsFile } from '../results/file.js';
import { readFinished } from '../results/lines.js';
import { openResults } from '../results/output.js';
import { checkNothingLost, isCount, isWhole, NOTHING_FINISHED } from '../results/resume.js';
import { checkFiles } from '../results/run-files.js';
import { checkPromptsJob } from './requests-job.js';

const LOOK_AGAIN_MS = 1000;

export async function runCollect(options: CollectOptions, context: CommandContext): Promise<void> {
  const { address, output } = options;
  const { log, interrupt, progress } = context;
  checkFiles({}, { '--output': output });
  checkNothingLost(options);
  const results = resultsFile(output);
  if (results === undefined) throw badOption(`--output: ${output} is no regular file: give a path of one`);
  const tell = (sentence: string) => log.warn(sentence);
  const connection = new QueueConnection(address, { tell, signal: interrupt.signal });
  try {
    await checkServer(asked(connection));
    const kept = await progress.during(
      () => `waiting for job ${address.job}`,
      waitForJob(connection, context),
    );
    const { record } = kept;
    const { prompts, samples } = record.sizes;
    const placeOf = ({ index, sample = 0 }: Readonly<Record<string, unknown>>): number | undefined => {
      const isText = isCount(index) && isCount(sample) && index < prompts && sample < samples;
      return isText ? index * samples + sample : undefined;
    };
    const settings: RunSettings = { ...record.settings, ...withoutVersion(kept) };
    const found = options.resume ? readSettings(output) : undefined;
    if (found) checkSettings(output, found, settings, ['weights', 'compute_dtype', 'kv_dtype']);
    const finished = found
      ? readFinished(results, (line) => (isWhole(line) ? placeOf(line) : undefined))
      : NOTHING_FINISHED;
    const texts = prompts * samples;
    if (kept.state === 'collected') throw collectedBefore(address.job, finished.places.size, texts);
    const file = await openResults(output, { settings, finished, options }, context);
    const places = PlaceSet.of(finished.places);
    const end = await progress
      .during(
        () => `collected: ${places.size.toLocaleString('en')} of ${counted(texts, 'text')}`,
        collectResults(connection, {
          record,
          isComplete: () => places.size === texts,
          onUnfinished: () =>
            log.warn(
              `job ${address.job} has no more prompts, and its submit has not ended: if it was killed, run it again with the same ` +
                'prompts, which adds what is missing',
            ),
          keep: (some) => {
            for (const line of some.flatMap(({ lines }) => lines)) {
              const place = placeOf(line);
              if (place === undefined || places.has(place)) continue;
              places.add(place);
              file.write(line);
            }
            file.sync();
          },
        }),
      )
      .finally(() => file.close());
    if (end === 'complete') log.info(`${output} has all ${counted(texts, 'text')}`);
    else throw incomplete(end, address.job, texts - places.size, texts);
  } finally {
    connection.close();
  }
}

/** Settings say how the texts are computed as soon as a worker has said it. */
async function waitForJob(connection: QueueConnection, { log }: CommandContext): Promise<KeptJob> {
  const { job, shown } = connection.address;
  let told = '';
  for (;;) {
    const kept = await readJob(asked(connection));
    if (kept) checkPromptsJob(kept.record, job, 'collect');
    if (kept && (kept.computed || kept.state === 'collected')) return kept;
    const sentence = kept
      ? `job ${job} has had no worker yet: waiting for one`
      : `there is no job ${job} at ${shown} yet: waiting for submit`;
    if (sentence !== told) log.info(sentence);
    told = sentence;
    await connection.pause(LOOK_AGAIN_MS);
  }
}

function withoutVersion({ computed = {} }: KeptJob): RunSettings {
  const { version: _, ...settings } = computed;
  return settings;
}

function collectedBefore(job: string, found: number, texts: number): OperatingError {
  return new OperatingError(
    'QUEUE_FAILED',
    `job ${job} was collected before, and the queue has none of it any more; --output has ${found} of ${counted(texts, 'text')}`,
  );
}

function incomplete(end: 'lost' | 'replaced', job: string, missing: number, texts: number): OperatingError {
  const why =
    end === 'lost'
      ? 'the queue has lost them, as a server does that was restarted without its data: run submit again with the same ' +
        'prompts, which adds what is missing, and then collect --resume'
      : `job ${job} is another one now`;
  return new OperatingError('QUEUE_FAILED', `${missing} of ${counted(texts, 'text')} are missing: ${why}`);
}
