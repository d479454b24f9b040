// Do more hosts make as many texts in proportion? Passes that 1, 2 and 4 workers make for the same prompts.
//
// Hosts are network namespaces, the server is real. A pass over streamed layers takes the same time however full it is, so what
// counts is how many passes there are in all (none is to be wasted), and how many the busiest worker makes (the job takes that long).

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Hosts, inOrder, passesOf, writePrompts } from './hosts.js';

const { values } = parseArgs({
  options: {
    name: { type: 'string', default: 'test/fixtures/models/stories260K' },
    prompts: { type: 'string', default: '10000' },
    tokens: { type: 'string', default: '8' },
    batch: { type: 'string', default: '64' },
    dir: { type: 'string', default: 'out/bench/cluster' },
  },
});
const folder = join(process.cwd(), values.dir);
rmSync(folder, { recursive: true, force: true });
const hosts = new Hosts(4, folder);
let single: { readonly passes: number; readonly lines: readonly string[] } | undefined;
try {
  await hosts.startServer();
  const prompts = join(folder, 'in.jsonl');
  writePrompts(prompts, Number(values.prompts));
  for (const workers of [1, 2, 4]) {
    const queue = ['--queue', hosts.queue, '--job', `of${workers}`];
    const texts = ['--prompts_file', prompts, '--max_new_tokens', values.tokens, '--ignore_eos'];
    const submitted = await hosts.start(0, ['submit', ...queue, '--name', values.name, ...texts]).ended;
    if (submitted.status !== 0) throw new Error(submitted.logs.join('\n'));
    const output = join(folder, `of${workers}.jsonl`);
    const collecting = hosts.start(0, ['collect', ...queue, '--output', output]);
    const words = ['worker', ...queue, '--name', values.name, '--batch_size', values.batch, '--threads', '1'];
    const all = await Promise.all(Array.from({ length: workers }, (_, i) => hosts.start(i + 1, words).ended));
    await collecting.ended;
    const passes = all.map(passesOf);
    const sum = passes.reduce((a, b) => a + b, 0);
    const lines = inOrder(output);
    single ??= { passes: sum, lines };
    const same = lines.length === single.lines.length && lines.every((line, i) => line === single?.lines[i]);
    const busiest = Math.max(...passes);
    process.stdout.write(
      `${workers} workers: ${passes.join(' + ')} = ${sum} passes, ${((single.passes / sum) * 100).toFixed(1)} % of linear; ` +
        `the busiest made ${busiest}, ${((single.passes / workers / busiest) * 100).toFixed(1)} % of an equal share; ` +
        `${lines.length} texts, ${same ? 'the same' : 'OTHERS'}\n`,
    );
  }
} finally {
  hosts.close();
}
