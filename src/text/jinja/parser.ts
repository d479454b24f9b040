// Jinja's statements.

import type { Expression, Signature, Statement, Target } from './ast.js';
import { UnsupportedError } from './errors.js';
import { ExpressionParser } from './expressions.js';
import { tokenize } from './lexer.js';

/** Throws TemplateSyntaxError, or UnsupportedError for a tag that chat templates do not have. */
export function parseTemplate(template: string): readonly Statement[] {
  return new StatementParser(tokenize(template)).template();
}

/** Tags of Jinja that take other templates, or escape for HTML. */
const OTHER_TAGS = ['block', 'extends', 'include', 'import', 'from', 'autoescape'];

class StatementParser extends ExpressionParser {
  /** Tags that are open, for messages. */
  readonly #open: string[] = [];
  #loops = 0;

  template(): readonly Statement[] {
    const body = this.#body([]);
    if (this.current.kind !== 'end') throw this.unexpected();
    return body;
  }

  /** Statements up to one of the tags, of which the name is then the next token; or up to the end. */
  #body(until: readonly string[]): Statement[] {
    const body: Statement[] = [];
    for (;;) {
      const { kind, text } = this.current;
      if (kind === 'end') {
        if (until.length > 0) throw this.error(`'${this.#open.at(-1)}' has no ${until.at(-1)}`);
        return body;
      }
      this.advance();
      if (kind === 'text') body.push({ kind: 'text', text });
      else if (kind === 'output-begin') {
        body.push({ kind: 'output', value: this.tuple() });
        this.expectKind('output-end');
      } else if (kind === 'block-begin') {
        if (until.some((tag) => this.isName(tag))) return body;
        body.push(this.#statement());
        this.expectKind('block-end');
      } else throw this.unexpected();
    }
  }

  /** The statements of a tag, up to its end. */
  #block(end: string): Statement[] {
    this.expectKind('block-end');
    const body = this.#body([end]);
    this.advance();
    return body;
  }

  #statement(): Statement {
    const { kind, text: tag } = this.current;
    if (kind !== 'name') throw this.unexpected();
    this.advance();
    this.#open.push(tag);
    const statement = this.#tag(tag);
    this.#open.pop();
    return statement;
  }

  #tag(tag: string): Statement {
    switch (tag) {
      case 'for':
        return this.#for();
      case 'if':
        return this.#if();
      case 'set':
        return this.#set();
      case 'macro':
        return this.#macro();
      case 'call':
        return this.#call();
      case 'filter':
        return { kind: 'filter-block', filter: this.filterOf(undefined), body: this.#block('endfilter') };
      case 'with':
        return this.#with();
      case 'generation':
        return { kind: 'scope', body: this.#block('endgeneration') };
      case 'break':
      case 'continue':
        if (this.#loops === 0) throw this.error(`'${tag}' outside of a loop`);
        return { kind: tag };
      default:
        if (OTHER_TAGS.includes(tag)) throw new UnsupportedError(`the tag '${tag}'`);
        throw this.error(`unknown tag '${tag}'`);
    }
  }

  #for(): Statement {
    const target = this.#target(false);
    this.expectName('in');
    const of = this.tuple({ condition: false, end: ['recursive'] });
    const filter = this.skipName('if') ? this.expression() : undefined;
    const recursive = this.skipName('recursive');
    this.expectKind('block-end');
    this.#loops++;
    const body = this.#body(['else', 'endfor']);
    this.#loops--;
    const hasElse = this.skipName('else');
    if (!hasElse) this.advance();
    const otherwise = hasElse ? this.#block('endfor') : [];
    return { kind: 'for', target, of, filter, recursive, body, otherwise };
  }

  #if(): Statement {
    const branches: { test: Expression; body: readonly Statement[] }[] = [];
    let otherwise: readonly Statement[] = [];
    this.soft++;
    for (;;) {
      const test = this.tuple({ condition: false });
      this.expectKind('block-end');
      branches.push({ test, body: this.#body(['elif', 'else', 'endif']) });
      if (this.skipName('elif')) continue;
      if (this.skipName('else')) otherwise = this.#block('endif');
      else this.advance();
      break;
    }
    this.soft--;
    return { kind: 'if', branches, otherwise };
  }

  #set(): Statement {
    const target = this.#target(true);
    if (this.skipOperator('=')) return { kind: 'set', target, value: this.tuple() };
    const filter = this.isOperator('|') ? this.filters(undefined) : undefined;
    return { kind: 'set-block', target, filter, body: this.#block('endset') };
  }

  #with(): Statement {
    const [targets, values]: [Target[], Expression[]] = [[], []];
    while (this.current.kind !== 'block-end') {
      if (targets.length > 0) this.expectOperator(',');
      targets.push(this.#target(false));
      this.expectOperator('=');
      values.push(this.expression());
    }
    return { kind: 'with', targets, values, body: this.#block('endwith') };
  }

  #macro(): Statement {
    const name = this.assignedName();
    return { kind: 'macro', name, signature: this.#signature(), ...this.#macroBody('endmacro') };
  }

  #call(): Statement {
    const signature = this.isOperator('(') ? this.#signature() : { names: [], defaults: [] };
    const call = this.expression();
    if (call.kind !== 'call') throw this.error('expected a call');
    return { kind: 'call', call, signature, ...this.#macroBody('endcall') };
  }

  #macroBody(end: string): { body: readonly Statement[]; uses: ReadonlySet<string> } {
    const outer = this.names;
    const loops = this.#loops;
    this.names = new Set();
    this.#loops = 0;
    const body = this.#block(end);
    const uses = this.names;
    for (const name of uses) outer.add(name);
    this.names = outer;
    this.#loops = loops;
    return { body, uses };
  }

  #signature(): Signature {
    const [names, defaults]: [string[], Expression[]] = [[], []];
    this.expectOperator('(');
    while (!this.isOperator(')')) {
      if (names.length > 0) this.expectOperator(',');
      names.push(this.assignedName());
      if (this.skipOperator('=')) defaults.push(this.expression());
      else if (defaults.length > 0)
        throw this.error('an argument without default follows one with a default');
    }
    this.expectOperator(')');
    return { names, defaults };
  }

  #target(withNamespace: boolean): Target {
    const items: Target[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) {
        if (!this.skipOperator(',')) break;
        isTuple = true;
      }
      const { kind } = this.current;
      if (items.length > 0 && (kind === 'block-end' || this.isName('in') || this.isOperator('='))) break;
      items.push(this.#oneTarget(withNamespace));
    }
    const [first] = items;
    return isTuple || !first ? { kind: 'tuple', items } : first;
  }

  #oneTarget(withNamespace: boolean): Target {
    if (this.skipOperator('(')) {
      const inner = this.#target(withNamespace);
      this.expectOperator(')');
      return inner;
    }
    const name = this.assignedName();
    if (withNamespace && this.skipOperator('.')) {
      return { kind: 'member', namespace: name, name: this.anyName() };
    }
    return { kind: 'name', name };
  }
}
