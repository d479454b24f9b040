// Tools and calls as chat templates take them: arguments are objects there, and texts in requests.

import type { Tool } from './tool.js';

/** As OpenAI's requests have them, which is as templates do. */
export function templateTools(tools: readonly Tool[]): object[] | null {
  if (tools.length === 0) return null;
  return tools.map(({ name, description, parameters }) => ({
    type: 'function',
    function: {
      name,
      description: description ?? '',
      parameters: parameters ?? { type: 'object', properties: {} },
    },
  }));
}

/** What is no JSON object stays as it is. */
export function templateArguments(given: string): unknown {
  try {
    const value: unknown = JSON.parse(given === '' ? '{}' : given);
    return typeof value === 'object' && value !== null ? value : given;
  } catch {
    return given;
  }
}
