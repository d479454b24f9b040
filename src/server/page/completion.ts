// A text that the model goes on with, where it stands.

import { byId } from './dom.js';
import { samplingFields } from './settings.js';
import { Turn } from './turn.js';

export function setUpCompletion(model: () => string): void {
  const turn = new Turn({ button: 'completion-send', figures: 'completion-figures', idle: 'Continue' });
  const text = byId('completion-text', HTMLTextAreaElement);
  const undo = byId('completion-undo', HTMLButtonElement);
  const figures = byId('completion-figures', HTMLElement);
  let before: string | undefined;
  byId('completion-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    if (turn.isRunning) turn.stop();
    else void goOn();
  });
  undo.addEventListener('click', () => {
    if (before !== undefined) text.value = before;
    before = undefined;
    undo.disabled = true;
    text.focus();
  });

  async function goOn(): Promise<void> {
    const sampling = samplingFields();
    if (!sampling) return;
    before = text.value;
    text.readOnly = true;
    undo.disabled = true;
    try {
      await turn.run(
        '/v1/completions',
        { model: model(), prompt: before, ...sampling },
        ({ choices = [] }) => {
          const wasAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 60;
          for (const choice of choices) text.value += choice.text ?? '';
          if (wasAtEnd) text.scrollTop = text.scrollHeight;
        },
      );
    } catch (error) {
      figures.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      text.readOnly = false;
      undo.disabled = false;
    }
  }
}
