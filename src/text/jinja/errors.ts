// The three ways in which a template ends without a text.

/** The template is none. */
export class TemplateSyntaxError extends Error {
  constructor(message: string, line: number) {
    super(`${message} (line ${line})`);
    this.name = 'TemplateSyntaxError';
  }
}

/** What Python would raise while rendering, or the template itself by `raise_exception`. */
export class TemplateRuntimeError extends Error {
  override readonly name = 'TemplateRuntimeError';
}

/** Jinja has it, and this does not: no text is better than another one. */
export class UnsupportedError extends Error {
  override readonly name = 'UnsupportedError';
}
