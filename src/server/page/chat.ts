// The conversation: messages as they are, answers as they come.

import { byId, element } from './dom.js';
import { samplingFields, systemMessage } from './settings.js';
import { Turn } from './turn.js';

interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

export function setUpChat(model: () => string): void {
  const turn = new Turn({ button: 'chat-send', figures: 'chat-figures', idle: 'Send' });
  const text = byId('chat-text', HTMLTextAreaElement);
  const log = byId('messages', HTMLElement);
  const hint = byId('chat-hint', HTMLElement);
  let messages: Message[] = [];
  byId('chat-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    if (turn.isRunning) turn.stop();
    else if (text.value.trim() !== '') void send();
  });
  text.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!turn.isRunning) byId('chat-form', HTMLFormElement).requestSubmit();
  });
  byId('chat-clear', HTMLButtonElement).addEventListener('click', () => {
    turn.stop();
    messages = [];
    log.replaceChildren(hint);
    byId('chat-figures', HTMLElement).textContent = '';
    text.focus();
  });

  async function send(): Promise<void> {
    const sampling = samplingFields();
    if (!sampling) return;
    const asked: Message = { role: 'user', content: text.value.trim() };
    const before = messages;
    hint.remove();
    log.append(element('div', 'message user', asked.content));
    const answer = new Answer(log);
    text.value = '';
    const system = systemMessage();
    const all = [...(system === '' ? [] : [{ role: 'system', content: system }]), ...before, asked];
    try {
      await turn.run(
        '/v1/chat/completions',
        { model: model(), messages: all, ...sampling },
        ({ choices = [] }) => {
          for (const { delta, finish_reason: reason } of choices) {
            answer.add(delta?.content ?? '', delta?.reasoning_content ?? '');
            if (reason) answer.finishReason = reason;
          }
        },
      );
      // One that was cleared meanwhile stays so.
      if (messages === before) messages = [...before, asked, { role: 'assistant', content: answer.text }];
    } catch (error) {
      log.append(element('div', 'message error', error instanceof Error ? error.message : String(error)));
      // What could not be answered can be sent again.
      if (answer.text === '') text.value = asked.content;
    } finally {
      answer.end();
    }
  }
}

/** An answer as it grows: its reasoning folded, code in boxes. */
class Answer {
  readonly #log: HTMLElement;
  readonly #message = element('div', 'message assistant waiting');
  readonly #body = element('div', '');
  #reasoning: HTMLElement | undefined;
  text = '';
  finishReason = '';

  constructor(log: HTMLElement) {
    this.#log = log;
    this.#message.append(this.#body);
    this.#message.setAttribute('aria-busy', 'true');
    log.append(this.#message);
    this.#scroll(true);
  }

  add(text: string, reasoning: string): void {
    const wasAtEnd = this.#isAtEnd;
    if (reasoning !== '') {
      this.#reasoning ??= this.#foldReasoning();
      this.#reasoning.append(reasoning);
    }
    if (text !== '') {
      this.text += text;
      this.#draw();
    }
    this.#scroll(wasAtEnd);
  }

  end(): void {
    this.#message.classList.remove('waiting');
    this.#message.removeAttribute('aria-busy');
    if (this.text === '' && !this.#reasoning) this.#message.remove();
    else if (this.finishReason === 'length') this.#note('Cut off at the limit of new tokens.');
    else if (this.finishReason === '') this.#note('Stopped.');
    this.#scroll(this.#isAtEnd);
  }

  #note(text: string): void {
    this.#message.append(element('p', 'note', text));
  }

  #foldReasoning(): HTMLElement {
    const details = element('details', '');
    const inner = element('div', '');
    details.append(element('summary', '', 'Reasoning'), inner);
    this.#message.prepend(details);
    return inner;
  }

  /** Text between lines of three backticks is code. */
  #draw(): void {
    const pieces = this.text.trimStart().split(/^```.*$\n?/m);
    this.#body.replaceChildren(
      ...pieces.map((piece, index) => (index % 2 === 1 ? element('pre', '', piece) : piece)),
    );
  }

  get #isAtEnd(): boolean {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
  }

  #scroll(follows: boolean): void {
    if (follows) this.#log.scrollTop = this.#log.scrollHeight;
  }
}
