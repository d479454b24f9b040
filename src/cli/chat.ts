// `chat`: a conversation with a model, in a terminal or by a pipe.

import { OperatingError, type Workload } from '../../offload/index.js';
import { planFor } from '../engine/plan-for.js';
import { stdinHasInput } from '../files/input.js';
import { loadChatTemplate } from '../text/chat.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import { EngineAnswerer } from './chat/answerer.js';
import { type LineInput, PipedLines, TerminalLines } from './chat/lines.js';
import { ChatSession } from './chat/session.js';
import type { CommandContext } from './context.js';
import { withModelSampling } from './generation/model-sampling.js';
import type { ChatOptions } from './options/chat-options.js';
import { badOption } from './options/option-reader.js';
import { idleOption } from './options/sampling-options.js';
import { checkFiles, sharedInputs } from './results/run-files.js';
import { engineOptions, withSession } from './session.js';
import { openSource, type Source } from './source.js';

/** Keys and values of more tokens would take much of the memory that layers could have. */
const MOST_CONTEXT = 4096;
/** Below this a conversation soon ends. */
const LEAST_CONTEXT = 512;

export async function runChat(asked: ChatOptions, context: CommandContext): Promise<void> {
  checkFiles(sharedInputs(asked), {}, asked.name);
  const isTerminal = process.stdin.isTTY === true && context.writesToTerminal;
  const source = await openSource(asked, context, { tokenizer: true, chatTemplate: true });
  const { folder } = source.opened.checkpoint;
  const [tokenizer, template] = [await loadTokenizer(folder), await loadChatTemplate(folder)];
  const options = withModelSampling(source.opened, asked, context);
  const { sampling, idle } = options;
  if (idle !== undefined && sampling.temperature === 0) throw idleOption(idle);
  if (sampling.temperature !== 0) context.log.info(`tokens are drawn with --seed ${sampling.seed}`);
  const workload = workloadFor(source, options, context);
  await withSession({ source, options, workload, texts: 1, context }, async ({ engine }) => {
    const { stopStrings, maxNewTokens } = options;
    const answerer = new EngineAnswerer({
      engine,
      template,
      tokenizer,
      endTokens: new Set(tokenizer.eosTokenIds),
      sampling,
      stopStrings,
      contextTokens: workload.contextTokens,
      maxNewTokens,
    });
    if (isTerminal) context.tell('/help says what can be typed beside messages; /quit leaves\n');
    const input = inputOf(isTerminal, options, context);
    const forget = context.interrupt.onStop(() => input.close());
    try {
      const session = new ChatSession({ answerer, input, context, system: options.system, isTerminal });
      await session.run(options.prompts);
    } finally {
      forget();
      input.close();
    }
  });
}

/** Standard input is read where somebody writes to it; with messages of options, it need not be. */
function inputOf(isTerminal: boolean, { prompts }: ChatOptions, { interrupt }: CommandContext): LineInput {
  if (isTerminal) return new TerminalLines(process.stdin, process.stdout);
  if (prompts.length > 0 && !stdinHasInput()) return NO_LINES;
  return new PipedLines(interrupt.signal);
}

const NO_LINES: LineInput = {
  next: async () => ({ kind: 'end' }),
  during: (work) => work,
  close: () => undefined,
};

/** One conversation of as much context as was asked for, or as fits. Throws BAD_OPTION or DOES_NOT_FIT. */
function workloadFor(source: Source, options: ChatOptions, { log }: CommandContext): Workload {
  const possible = source.opened.model.maxContextTokens;
  const { maxContext, maxNewTokens } = options;
  if (maxContext !== undefined && possible !== undefined && maxContext > possible) {
    throw badOption(`--max_context is ${maxContext}, but the model has a context of ${possible}: lower it`);
  }
  const workload = (contextTokens: number): Workload => ({
    sequences: 1,
    contextTokens,
    promptTokens: contextTokens,
    newTokens: Math.min(maxNewTokens ?? contextTokens, contextTokens),
    output: 'tokens',
    history: options.sampling.repetitionPenalty !== 1,
  });
  if (maxContext !== undefined) return workload(maxContext);
  const wanted = Math.min(possible ?? MOST_CONTEXT, MOST_CONTEXT);
  for (
    let contextTokens = wanted;
    contextTokens > LEAST_CONTEXT;
    contextTokens = Math.ceil(contextTokens / 2)
  ) {
    if (!fits(workload(contextTokens), source, options)) continue;
    if (contextTokens < wanted)
      log.info(`a conversation of ${contextTokens} tokens fits; --max_context says another number`);
    return workload(contextTokens);
  }
  // The planner's refusal says what is missing.
  return workload(Math.min(wanted, LEAST_CONTEXT));
}

function fits(workload: Workload, source: Source, options: ChatOptions): boolean {
  try {
    planFor(source.opened.model, engineOptions(source, options, workload));
    return true;
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'DOES_NOT_FIT') return false;
    throw error;
  }
}
