// Stopping in the middle: at once, with the right status, and with files that hold whole lines only.

import type { ChildProcess } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('shakespeare-bloom');
/** Would take minutes. */
const ENDLESS = ['--name', MODEL, '--max_new_tokens', '8000', '--ignore_eos'];

describe.concurrent('interruption', () => {
  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s while text streams', async (signal) => {
    let sent = false;
    const result = await runCli([...ENDLESS, '--prompt', 'ROMEO:', '--nvme_offload_path', MODEL], {
      onStdout: (child) => {
        if (!sent) child.kill(signal);
        sent = true;
      },
    });
    expect(result.status).toBe(130);
    expect(result.errors).toHaveLength(1);
    expect(result.errors[0]).toMatch(/^zero-inference: INTERRUPTED: stopped by (Ctrl-C|SIGTERM|SIGHUP)$/);
    // Whatever was begun is ended, so that a shell's prompt stands alone.
    expect(result.stdout.endsWith('\n')).toBe(true);
  });

  it('leaves whole lines of finished prompts', async () => {
    const folder = newFolder();
    const [input, output] = [join(folder, 'in.txt'), join(folder, 'out.jsonl')];
    writeFileSync(input, Array.from({ length: 3000 }, (_, index) => `Prompt number ${index}`).join('\n'));
    const args = ['--prompts_file', input, '--output', output, '--batch_size', '2', '--max_new_tokens', '4'];
    let sent = false;
    const result = await runCli(['--name', MODEL, ...args], {
      onStdout: (child, text) => {
        if (!sent && text.includes('in=Prompt number 5')) child.kill('SIGINT');
        sent ||= child.killed;
      },
    });
    expect(result.status).toBe(130);
    expect(result.logs.at(-1)).toMatch(/^stopped at \d+ of 3000 texts, pass \d+, [\d.]+ tokens\/s/);
    const content = readFileSync(output, 'utf8');
    expect(content.endsWith('\n')).toBe(true);
    const indices = content
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).index);
    expect(indices.length).toBeGreaterThan(4);
    expect(indices).toEqual(indices.map((_, index) => index));
  });

  it('a reader that closes stdout ends the program without a word', async () => {
    const result = await runCli([...ENDLESS, '--prompt', 'ROMEO:'], {
      onStdout: (child) => child.stdout?.destroy(),
    });
    expect(result.status).toBe(0);
    expect(result.errors).toEqual([]);
  });

  it('but not where the results go to a file as well', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const args = ['--batch_size', '3', '--max_new_tokens', '8', '--output', output];
    const result = await runCli(['--name', MODEL, ...args], { onStdout: (child) => child.stdout?.destroy() });
    expect(result.status).toBe(0);
    expect(readFileSync(output, 'utf8').trimEnd().split('\n')).toHaveLength(3);
  });

  /** From the first text on JavaScript does nothing else any more, as in a call that takes for ever. */
  const busy = `const write = process.stdout.write;
    process.stdout.write = function (...words) {
      setImmediate(() => { for (;;); });
      return write.apply(this, words);
    };`;
  const env = { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(busy)}` };

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s while JavaScript is busy', async (signal) => {
    const onStdout = (child: ChildProcess) => setTimeout(() => child.kill(signal), 100);
    const result = await runCli([...ENDLESS, '--prompt', 'ROMEO:'], { env, onStdout });
    expect(result.errors).toEqual([expect.stringMatching(/^zero-inference: INTERRUPTED: stopped by /)]);
    expect(result.status).toBe(130);
  });

  it('two signals while JavaScript is busy: the first is why it ends', async () => {
    const onStdout = (child: ChildProcess) => {
      child.kill('SIGINT');
      setTimeout(() => child.kill('SIGTERM'), 200);
    };
    const result = await runCli([...ENDLESS, '--prompt', 'ROMEO:'], { env, onStdout });
    expect(result.errors).toEqual(['zero-inference: INTERRUPTED: stopped by Ctrl-C']);
    expect(result.status).toBe(130);
  });

  it('a second signal ends it at once', async () => {
    const result = await runCli([...ENDLESS, '--prompt', 'ROMEO:'], {
      onStdout: (child) => {
        child.kill('SIGINT');
        child.kill('SIGTERM');
      },
    });
    expect(result.status).toBe(130);
  });
});
