// Do clients that come at once with the same system prompt have it taken in once, whoever of them is first?
//
// node dist/bench/server/prefixes.js [--clients 64] [--tokens 2000]

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { printResult } from '../common.js';
import { openService } from './opened.js';

const { values } = parseArgs({
  options: { clients: { type: 'string', default: '64' }, tokens: { type: 'string', default: '2000' } },
});
const [clients, systemTokens] = [Number(values.clients), Number(values.tokens)];
const NEW_TOKENS = 4;

const folder = mkdtempSync(join(tmpdir(), 'zi-prefixes-'));
cpSync('test/fixtures/models/shakespeare-bloom', folder, { recursive: true });
writeFileSync(join(folder, 'chat_template.jinja'), '{% for m in messages %}{{ m.content }}\n{% endfor %}');
const service = await openService(folder, { sequences: 32, contextTokens: systemTokens + 128 });

async function post(path: string, body: object): Promise<Record<string, unknown>> {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${service.address}${path}`, {
    method: 'POST',
    headers,
    body: JSON.stringify(body),
  });
  return (await response.json()) as Record<string, unknown>;
}

/** A text of about so many tokens. */
async function systemPrompt(): Promise<string> {
  const line = 'My lord, the king is come, and all his men with him; what shall we do? ';
  const { count } = (await post('/tokenize', { prompt: line.repeat(50) })) as { count: number };
  return line.repeat(Math.ceil((50 * systemTokens) / count));
}

const system = await systemPrompt();
const [{ count: shared }, ...answers] = (await Promise.all([
  post('/tokenize', { prompt: system }),
  ...Array.from({ length: clients }, (_, client) =>
    post('/v1/chat/completions', {
      messages: [
        { role: 'system', content: system },
        { role: 'user', content: `I am number ${client}.` },
      ],
      max_tokens: NEW_TOKENS,
    }),
  ),
])) as unknown as [{ count: number }, ...{ usage?: { prompt_tokens: number } }[]];
const { promptTokens, sharedTokens } = service.engine.prefixCounts;
const computed = promptTokens - sharedTokens;
const given = answers.reduce((sum, { usage }) => sum + (usage?.prompt_tokens ?? 0), 0);
/** What is left where each but one finds all of the system prompt but its last page. */
const least = given - (clients - 1) * shared;
const failures = answers.filter(({ usage }) => usage === undefined).length;
await service.close();
rmSync(folder, { recursive: true });
const line = `of ${given} tokens of ${clients} prompts ${computed} were computed; ${shared} begin each of them`;
printResult('server-prefixes', line, {
  clients,
  given_tokens: given,
  system_tokens: shared,
  computed_tokens: computed,
  least_tokens: least,
  times_least: computed / least,
  failures,
});
// A page of a sequence's own at most.
process.exitCode = failures > 0 || computed > least + clients * 32 ? 1 : 0;
