// `status`: how far the job of a queue is, and who works on it.

import { counted } from '../../../offload/index.js';
import { collectedKey } from '../../queue/address.js';
import { countsOf, openQueue } from '../../queue/bull.js';
import { QueueConnection } from '../../queue/connection.js';
import { asked, readJob } from '../../queue/record.js';
import { workersOf } from '../../queue/workers.js';
import { textTable } from '../../report/text-table.js';
import type { CommandContext } from '../context.js';
import { formatDuration } from '../generation/status.js';
import type { StatusOptions } from '../options/queue-options.js';

export async function runStatus({ address, json }: StatusOptions, context: CommandContext): Promise<void> {
  const { log, interrupt, write } = context;
  const tell = (sentence: string) => log.warn(sentence);
  const connection = new QueueConnection(address, { tell, signal: interrupt.signal });
  try {
    const kept = await readJob(asked(connection));
    if (!kept) {
      write(
        json
          ? `${JSON.stringify({ job: address.job, state: 'absent' })}\n`
          : `there is no job ${address.job}\n`,
      );
      return;
    }
    const { record, state, submitted, computed } = kept;
    const { id, sizes } = record;
    const counts = await connection.ask(() => countsOf(openQueue(connection, id)));
    const collected = await connection.ask(() => connection.redis.bitcount(collectedKey(address.job, id)));
    const workers = await connection.ask(() => workersOf(connection, id));
    if (json) {
      const parts = { ...counts, collected };
      write(`${JSON.stringify({ job: address.job, state, submitted, sizes, parts, computed, workers })}\n`);
      return;
    }
    const rate = workers.reduce((sum, { textsPerSecond }) => sum + textsPerSecond, 0);
    const all = counts.waiting + counts.leased + counts.made + collected;
    const share = all === 0 ? 0 : (counts.made + collected) / all;
    const texts = sizes.prompts * sizes.samples;
    const left =
      state === 'submitted' && rate > 0 ? `, about ${formatDuration((texts * (1 - share)) / rate)} left` : '';
    const asks = `parts: ${counts.waiting} wait, ${counts.leased} leased, ${counts.made} made`;
    if (record.kind === 'requests') write(`job ${address.job}: requests of servers; ${asks}\n`);
    else
      write(
        `job ${address.job}: ${state === 'submitting' ? `${submitted} of ` : ''}${counted(sizes.prompts, 'prompt')}, ` +
          `${state}; ${asks}, ${collected} collected` +
          `${left}\n`,
      );
    const rows = workers.map((one) => [
      one.name,
      String(one.texts),
      String(one.passes),
      one.textsPerSecond.toFixed(2),
      String(one.open),
    ]);
    if (rows.length > 0)
      write(
        textTable(
          [['worker', 'texts', 'passes', 'texts/s', 'in hand'], ...rows],
          ['left', 'right', 'right', 'right', 'right'],
        ),
      );
  } finally {
    connection.close();
  }
}
