// The conversation itself: lines become messages and commands, messages get answers, and what goes wrong is told.

import { counted, OperatingError } from '../../../offload/index.js';
import type { CommandContext } from '../context.js';
import { describeFailure } from '../failure.js';
import type { Answer, Answerer } from './answerer.js';
import { helpText, parseLine, type SlashName } from './commands.js';
import { Conversation } from './conversation.js';
import type { LineInput } from './lines.js';
import { MessageLines } from './message-lines.js';
import { loadConversation, saveConversation } from './saved.js';

/** What can be mended in the conversation; anything else ends it. */
const MENDABLE: ReadonlySet<string> = new Set([
  'BAD_INPUT',
  'BAD_OPTION',
  'EMPTY_PROMPT',
  'NOT_FINITE',
  'NOT_FOUND',
  'NO_SPACE',
  'PROMPT_TOO_LONG',
  'WRITE_FAILED',
]);

export interface ChatParts {
  readonly answerer: Answerer;
  readonly input: LineInput;
  readonly context: Pick<CommandContext, 'interrupt' | 'progress' | 'tell' | 'write'>;
  readonly system: string | undefined;
  /** Somebody sees what goes wrong, and can do something else. */
  readonly isTerminal: boolean;
}

export class ChatSession {
  readonly #parts: ChatParts;
  readonly #conversation: Conversation;
  readonly #lines = new MessageLines();
  #left = false;
  /** Ctrl-C was pressed where there was nothing to stop: once more, and it leaves. */
  #leaving = false;

  constructor(parts: ChatParts) {
    this.#parts = parts;
    this.#conversation = new Conversation(parts.system);
  }

  /** @param first messages before those of the input */
  async run(first: readonly string[]): Promise<void> {
    for (const message of first) {
      if (this.#parts.isTerminal) this.#parts.context.tell(`> ${message}\n`);
      await this.#mending(() => this.#say(message));
    }
    while (!this.#left) {
      const event = await this.#parts.input.next(this.#lines.isOpen ? '… ' : '> ');
      if (event.kind === 'end') break;
      if (event.kind === 'interrupted') this.#onInterrupt(event.lineBegun);
      else await this.#take(event.text);
    }
    const rest = this.#left ? undefined : this.#lines.end();
    if (rest !== undefined && !this.#parts.isTerminal) await this.#takeMessage(rest);
    else if (!this.#left && this.#parts.isTerminal) this.#parts.context.tell('\n');
  }

  #onInterrupt(lineBegun: boolean): void {
    if (this.#lines.isOpen || lineBegun) this.#lines.clear();
    else if (this.#leaving) this.#left = true;
    else {
      this.#leaving = true;
      this.#parts.context.tell('Ctrl-C once more leaves, as Ctrl-D and /quit do\n');
    }
  }

  async #take(line: string): Promise<void> {
    this.#leaving = false;
    const begins = !this.#lines.isOpen;
    // A line of a message may begin with a slash; the first one is a command.
    const parsed = begins ? parseLine(line) : { kind: 'message' as const, text: line };
    if (parsed.kind === 'mistake') {
      await this.#mending(() => {
        throw new OperatingError('BAD_INPUT', parsed.problem);
      });
    } else if (parsed.kind === 'command') await this.#mending(() => this.#obey(parsed.name, parsed.argument));
    else {
      const message = this.#lines.push(parsed.text);
      if (message !== undefined) await this.#takeMessage(message);
    }
  }

  async #takeMessage(message: string): Promise<void> {
    if (message.trim() !== '') await this.#mending(() => this.#say(message));
  }

  /** What can be mended is told on a terminal; without one, nobody would go on from there. */
  async #mending(work: () => Promise<void> | void): Promise<void> {
    try {
      await work();
    } catch (error) {
      const { isTerminal, context } = this.#parts;
      const mendable = error instanceof OperatingError && MENDABLE.has(error.code);
      if (!mendable || !isTerminal || context.interrupt.signal.aborted) throw error;
      context.tell(describeFailure(error, false).text.replace(/^zero-inference: [A-Z_]+: /, ''));
      if (error.code === 'PROMPT_TOO_LONG') context.tell(TOO_LONG);
    }
  }

  async #say(message: string): Promise<void> {
    this.#conversation.say(message);
    await this.#answer();
  }

  async #answer(): Promise<void> {
    let answer: Answer;
    try {
      answer = await this.#stream();
    } catch (error) {
      // What has no answer has not been said.
      this.#conversation.undo();
      throw error;
    }
    const { context, isTerminal } = this.#parts;
    this.#conversation.answer(answer.text);
    context.write('\n');
    if (!isTerminal) return;
    if (answer.finishReason === 'length') {
      context.tell(
        `(ended after ${counted(answer.newTokens, 'token')}: --max_new_tokens and --max_context allow no more)\n`,
      );
    } else if (answer.finishReason === 'cancelled') context.tell('(stopped)\n');
  }

  /** Streams an answer to the conversation as it is. */
  async #stream(): Promise<Answer> {
    const { answerer, input, context } = this.#parts;
    const { interrupt, progress, write } = context;
    const stopper = new AbortController();
    const stop = () => {
      // Asked a second time, a pass that takes long is not waited for.
      if (stopper.signal.aborted) process.kill(process.pid, 'SIGINT');
      stopper.abort();
    };
    progress.start(() => 'reading the conversation');
    const work = answerer.answer(this.#conversation.messages, {
      signal: AbortSignal.any([interrupt.signal, stopper.signal]),
      onText: (piece) => {
        progress.stop();
        write(piece);
      },
    });
    try {
      const answer = await input.during(work, stop);
      interrupt.signal.throwIfAborted();
      return answer;
    } finally {
      progress.stop();
    }
  }

  async #obey(name: SlashName, argument: string): Promise<void> {
    const { context, isTerminal } = this.#parts;
    const { signal } = context.interrupt;
    const tell = (text: string) => {
      if (isTerminal) context.tell(`${text}\n`);
    };
    switch (name) {
      case 'help':
        context.tell(helpText(isTerminal));
        return;
      case 'quit':
        this.#left = true;
        return;
      case 'reset':
        this.#conversation.reset();
        tell('the conversation begins anew');
        return;
      case 'system':
        if (argument !== '') this.#conversation.system = argument === NO_TEXT ? undefined : argument;
        tell(`system message: ${this.#conversation.system ?? 'none'}`);
        return;
      case 'undo':
        this.#requireSaid(this.#conversation.undo());
        tell(`${counted(this.#conversation.length, 'message')} left`);
        return;
      case 'retry':
        this.#requireSaid(this.#conversation.undoAnswer());
        await this.#answer();
        return;
      case 'save':
        this.#requireSaid(this.#conversation.messages.length > 0);
        await saveConversation(argument, this.#conversation.messages, signal);
        tell(`saved ${counted(this.#conversation.length, 'message')} and what was answered to ${argument}`);
        return;
      case 'load':
        this.#conversation.replace(await loadConversation(argument, signal));
        tell(
          `${argument} has ${counted(this.#conversation.length, 'message')}: the next one goes on from there`,
        );
    }
  }

  #requireSaid(said: boolean): void {
    if (!said) throw new OperatingError('BAD_INPUT', 'nothing has been said yet');
  }
}

/** Takes the system message away, which some templates refuse. */
const NO_TEXT = '""';

const TOO_LONG =
  'The message was not taken. /undo takes the last one back, /reset begins anew, and a start with a larger ' +
  '--max_context has more room.\n';
