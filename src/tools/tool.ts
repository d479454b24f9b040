// Tools that a model may call, as a request names them, and calls as a model writes them.

import type { Schema } from '../structured/schema.js';

export interface Tool {
  readonly name: string;
  readonly description?: string | undefined;
  /** A schema of an object; absent for a tool that takes nothing. */
  readonly parameters?: Schema | undefined;
  /** Arguments have to obey the schema. */
  readonly strict?: boolean | undefined;
}

/** Whether calls may, have to, or must not come; or which one has to. */
export type ToolChoice = 'none' | 'auto' | 'required' | { readonly name: string };

export interface Call {
  readonly name: string;
  /** JSON. */
  readonly arguments: string;
}
