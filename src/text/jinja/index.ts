// Chat templates as transformers renders them: Jinja with Python's values, in a sandbox, and nothing that is near but other.

import type { Statement } from './ast.js';
import { globalsOf } from './globals.js';
import { Interpreter } from './interpreter.js';
import { parseTemplate } from './parser.js';
import { Scope } from './scope.js';
import { fromJson } from './values.js';

export { TemplateRuntimeError, TemplateSyntaxError, UnsupportedError } from './errors.js';

export class Template {
  readonly #statements: readonly Statement[];

  /** Throws TemplateSyntaxError, or UnsupportedError for a tag that chat templates do not have. */
  constructor(text: string) {
    this.#statements = parseTemplate(text);
  }

  /**
   * Throws TemplateRuntimeError where Python would raise an error, UnsupportedError for what is not written here.
   * @param now what time it is, for templates that write the date
   */
  render(variables: Readonly<Record<string, unknown>>, now: () => Date = () => new Date()): string {
    const scope = new Scope();
    for (const [name, value] of globalsOf(now)) scope.set(name, value);
    for (const [name, value] of Object.entries(variables)) scope.set(name, fromJson(value));
    return new Interpreter().run(this.#statements, new Scope(scope));
  }
}
