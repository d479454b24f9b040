// Jinja's expressions, with its precedences.

import type { Arguments, BinaryOperator, CompareOperator, Expression } from './ast.js';
import { TemplateSyntaxError } from './errors.js';
import { KNOWN_FILTERS, KNOWN_TESTS } from './known-names.js';
import type { Token } from './lexer.js';

interface TupleOptions {
  /** `a if b else c` may be a member. */
  readonly condition?: boolean;
  /** Names that end it. */
  readonly end?: readonly string[];
  /** `()` is one. */
  readonly mayBeEmpty?: boolean;
}

const CONSTANTS: Readonly<Record<string, boolean | null>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
};
const COMPARISONS: readonly string[] = ['==', '!=', '<', '<=', '>', '>='];

export class ExpressionParser {
  readonly #tokens: readonly Token[];
  #at = 0;
  /** Within how many conditions: there, an unknown filter only counts when it is used. */
  protected soft = 0;
  /** Names that were read since it was emptied. */
  protected names = new Set<string>();

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  protected get current(): Token {
    return this.#tokens[this.#at] ?? { kind: 'end', text: '', line: 0 };
  }

  protected advance(): Token {
    const token = this.current;
    this.#at++;
    return token;
  }

  protected error(message: string): TemplateSyntaxError {
    return new TemplateSyntaxError(message, this.current.line);
  }

  protected unexpected(): TemplateSyntaxError {
    const { kind, text } = this.current;
    return this.error(text === '' ? `unexpected ${kind.replace('-', ' ')}` : `unexpected '${text}'`);
  }

  protected isName(name: string): boolean {
    return this.current.kind === 'name' && this.current.text === name;
  }
  protected isOperator(operator: string): boolean {
    return this.current.kind === 'operator' && this.current.text === operator;
  }
  protected skipName(name: string): boolean {
    const found = this.isName(name);
    if (found) this.advance();
    return found;
  }
  protected skipOperator(operator: string): boolean {
    const found = this.isOperator(operator);
    if (found) this.advance();
    return found;
  }
  protected expectName(name: string): void {
    if (!this.skipName(name)) throw this.error(`expected '${name}'`);
  }
  protected expectOperator(operator: string): void {
    if (!this.skipOperator(operator)) throw this.error(`expected '${operator}'`);
  }
  protected expectKind(kind: Token['kind']): void {
    if (this.current.kind !== kind) throw this.unexpected();
    this.advance();
  }
  protected anyName(): string {
    if (this.current.kind !== 'name') throw this.unexpected();
    return this.advance().text;
  }
  /** A name that may be given a value. */
  protected assignedName(): string {
    if (this.current.text in CONSTANTS) throw this.error(`'${this.current.text}' cannot be assigned to`);
    return this.anyName();
  }

  /** One expression, or several with commas between them, which are a tuple. */
  protected tuple({ condition = true, end = [], mayBeEmpty = false }: TupleOptions = {}): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) {
        if (!this.skipOperator(',')) break;
        isTuple = true;
      }
      if (this.#endsTuple(end)) break;
      items.push(this.expression(condition));
    }
    const [first] = items;
    if (!isTuple && first) return first;
    if (items.length === 0 && !mayBeEmpty) throw this.unexpected();
    return { kind: 'tuple', items };
  }

  #endsTuple(end: readonly string[]): boolean {
    const { kind } = this.current;
    if (kind === 'output-end' || kind === 'block-end' || this.isOperator(')')) return true;
    return end.some((name) => this.isName(name));
  }

  protected expression(condition = true): Expression {
    let value = this.#or();
    while (condition && this.skipName('if')) {
      const test = this.#or();
      const otherwise = this.skipName('else') ? this.expression() : undefined;
      value = { kind: 'condition', test, holds: value, otherwise };
    }
    return value;
  }

  #or(): Expression {
    let left = this.#and();
    while (this.skipName('or')) left = { kind: 'binary', operator: 'or', left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.skipName('and')) left = { kind: 'binary', operator: 'and', left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (this.skipName('not')) return { kind: 'unary', operator: 'not', of: this.#not() };
    return this.#compare();
  }

  #compare(): Expression {
    const first = this.#sum();
    const rest: { operator: CompareOperator; value: Expression }[] = [];
    for (let operator = this.#comparison(); operator; operator = this.#comparison()) {
      rest.push({ operator, value: this.#sum() });
    }
    return rest.length > 0 ? { kind: 'compare', first, rest } : first;
  }

  #comparison(): CompareOperator | undefined {
    const { kind, text } = this.current;
    if (kind === 'operator' && COMPARISONS.includes(text)) return this.advance().text as CompareOperator;
    if (this.skipName('in')) return 'in';
    const next = this.#tokens[this.#at + 1];
    if (!this.isName('not') || next?.kind !== 'name' || next.text !== 'in') return undefined;
    this.#at += 2;
    return 'not in';
  }

  #sum(): Expression {
    return this.#chain(['+', '-'], () => this.#concat());
  }

  #concat(): Expression {
    const first = this.#product();
    const parts = [first];
    while (this.skipOperator('~')) parts.push(this.#product());
    return parts.length > 1 ? { kind: 'concat', parts } : first;
  }

  #product(): Expression {
    return this.#chain(['*', '/', '//', '%'], () => this.#power());
  }

  #power(): Expression {
    return this.#chain(['**'], () => this.#unary());
  }

  #chain(operators: readonly BinaryOperator[], next: () => Expression): Expression {
    let left = next();
    for (;;) {
      const operator = operators.find((one) => this.isOperator(one));
      if (!operator) return left;
      this.advance();
      left = { kind: 'binary', operator, left, right: next() };
    }
  }

  /** Filters count after a sign: `-1|abs` is 1. */
  #unary(withFilters = true): Expression {
    const operator = (['-', '+'] as const).find((one) => this.isOperator(one));
    if (operator) this.advance();
    const value: Expression = operator
      ? { kind: 'unary', operator, of: this.#unary(false) }
      : this.#primary();
    const whole = this.#postfix(value);
    return withFilters ? this.filters(whole) : whole;
  }

  #primary(): Expression {
    const { kind, text } = this.current;
    if (kind === 'name') {
      this.advance();
      const constant = CONSTANTS[text];
      if (constant !== undefined) return { kind: 'constant', value: constant };
      this.names.add(text);
      return { kind: 'name', name: text };
    }
    if (kind === 'string') {
      let value = '';
      while (this.current.kind === 'string') value += this.advance().text;
      return { kind: 'constant', value };
    }
    if (kind === 'integer') return { kind: 'constant', value: BigInt(this.advance().text) };
    if (kind === 'float') return { kind: 'constant', value: Number(this.advance().text) };
    if (this.skipOperator('(')) {
      const value = this.tuple({ mayBeEmpty: true });
      this.expectOperator(')');
      return value;
    }
    if (this.skipOperator('[')) return { kind: 'list', items: this.#listed(']', () => this.expression()) };
    if (this.skipOperator('{')) return { kind: 'dict', entries: this.#listed('}', () => this.#entry()) };
    throw this.unexpected();
  }

  #entry(): [Expression, Expression] {
    const key = this.expression();
    this.expectOperator(':');
    return [key, this.expression()];
  }

  /** Parts with commas between them, one of which may be at the end. */
  #listed<T>(close: string, next: () => T): T[] {
    const items: T[] = [];
    while (!this.skipOperator(close)) {
      if (items.length > 0) {
        this.expectOperator(',');
        if (this.skipOperator(close)) break;
      }
      items.push(next());
    }
    return items;
  }

  #postfix(value: Expression): Expression {
    for (;;) {
      if (this.skipOperator('.')) {
        const { kind, text } = this.advance();
        if (kind === 'name') value = { kind: 'attribute', of: value, name: text };
        else if (kind === 'integer') {
          value = { kind: 'item', of: value, key: { kind: 'constant', value: BigInt(text) } };
        } else throw this.error('expected a name or a number after the dot');
      } else if (this.skipOperator('[')) {
        const keys = this.#listed(']', () => this.#subscript());
        const [key] = keys;
        if (!key) throw this.error('expected a key between the brackets');
        value = { kind: 'item', of: value, key: keys.length === 1 ? key : { kind: 'tuple', items: keys } };
      } else if (this.isOperator('(')) value = { kind: 'call', callee: value, args: this.#arguments() };
      else return value;
    }
  }

  #subscript(): Expression {
    const part = () =>
      this.isOperator(':') || this.isOperator(']') || this.isOperator(',') ? undefined : this.expression();
    const start = part();
    if (!this.skipOperator(':')) {
      if (!start) throw this.unexpected();
      return start;
    }
    const stop = part();
    const step = this.skipOperator(':') ? part() : undefined;
    return { kind: 'slice', start, stop, step };
  }

  /** Filters, tests and calls of what they give. */
  protected filters(value: Expression | undefined): Expression {
    for (;;) {
      if (this.isOperator('|')) value = this.filterOf(value, true);
      else if (value && this.isName('is')) value = this.#test(value);
      else if (value && this.isOperator('('))
        value = { kind: 'call', callee: value, args: this.#arguments() };
      else if (value) return value;
      else throw this.unexpected();
    }
  }

  /** @param value undefined for what a block holds */
  protected filterOf(value: Expression | undefined, afterBar = false): Expression {
    if (afterBar) this.expectOperator('|');
    const name = this.#dottedName();
    if (this.soft === 0 && !KNOWN_FILTERS.has(name)) throw this.error(`there is no filter '${name}'`);
    const args = this.isOperator('(') ? this.#arguments() : NONE;
    const filtered: Expression = { kind: 'filter', of: value, name, args };
    return !afterBar && this.isOperator('|') ? this.filters(filtered) : filtered;
  }

  #dottedName(): string {
    let name = this.anyName();
    while (this.skipOperator('.')) name += `.${this.anyName()}`;
    return name;
  }

  #test(value: Expression): Expression {
    this.advance();
    const negated = this.skipName('not');
    const name = this.#dottedName();
    if (this.soft === 0 && !KNOWN_TESTS.has(name)) throw this.error(`there is no test '${name}'`);
    const { kind, text } = this.current;
    let args = NONE;
    if (this.isOperator('(')) args = this.#arguments();
    else if (
      (kind === 'name' && !['else', 'or', 'and'].includes(text)) ||
      ['string', 'integer', 'float'].includes(kind) ||
      this.isOperator('[') ||
      this.isOperator('{')
    ) {
      if (this.isName('is')) throw this.error('tests cannot be chained with is');
      args = { ...NONE, positional: [this.#postfix(this.#primary())] };
    }
    const test: Expression = { kind: 'test', of: value, name, args };
    return negated ? { kind: 'unary', operator: 'not', of: test } : test;
  }

  #arguments(): Arguments {
    this.expectOperator('(');
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let [rest, namedRest]: (Expression | undefined)[] = [];
    this.#listed(')', () => {
      const next = this.#tokens[this.#at + 1];
      if (this.skipOperator('*')) {
        if (rest || namedRest) throw this.error("a second '*'");
        rest = this.expression();
      } else if (this.skipOperator('**')) {
        if (namedRest) throw this.error("a second '**'");
        namedRest = this.expression();
      } else if (this.current.kind === 'name' && next?.kind === 'operator' && next.text === '=') {
        const name = this.anyName();
        this.advance();
        if (namedRest) throw this.error("an argument after '**'");
        named.push([name, this.expression()]);
      } else {
        if (named.length > 0 || rest || namedRest)
          throw this.error('an argument without name follows one with a name');
        positional.push(this.expression());
      }
    });
    return { positional, named, rest, namedRest };
  }
}

const NONE: Arguments = { positional: [], named: [], rest: undefined, namedRest: undefined };
