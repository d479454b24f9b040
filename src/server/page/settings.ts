// The controls of sampling: what is left empty is not sent, so that the model's own values hold.

import { byId } from './dom.js';

const NUMBERS = [
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'repetition_penalty',
  'presence_penalty',
  'frequency_penalty',
  'max_tokens',
  'seed',
] as const;

export type SamplingFields = { readonly [Name in (typeof NUMBERS)[number]]?: number } & {
  readonly stop?: readonly string[];
};

/** Undefined where a control has a value that cannot be; it says so itself. */
export function samplingFields(): SamplingFields | undefined {
  const form = byId('settings-form', HTMLFormElement);
  if (!form.checkValidity()) {
    byId('settings', HTMLDetailsElement).open = true;
    form.reportValidity();
    return undefined;
  }
  const values = new FormData(form);
  const numbers = NUMBERS.flatMap((name) => {
    const text = String(values.get(name) ?? '').trim();
    return text === '' ? [] : [[name, Number(text)] as const];
  });
  const stop = String(values.get('stop') ?? '');
  return { ...Object.fromEntries(numbers), ...(stop === '' ? {} : { stop: [stop] }) };
}

export function systemMessage(): string {
  const form = byId('settings-form', HTMLFormElement);
  return String(new FormData(form).get('system') ?? '').trim();
}
