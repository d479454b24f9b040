// Runs the statements of a template.

import type { Arguments, Expression, Signature, Statement, Target } from './ast.js';
import { attributeOf, indexable, itemOf } from './attributes.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { applyFilter } from './filters.js';
import { loopVariable } from './loop.js';
import { arithmetic, compare, unary } from './operators.js';
import { Scope } from './scope.js';
import { sliceOf } from './slices.js';
import { applyTest } from './tests.js';
import {
  type CallArguments,
  Callable,
  Dict,
  isTrue,
  iterate,
  List,
  Members,
  Namespace,
  Tuple,
  toText,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** Loops and macros within each other; Python ends at some 1000 of its own calls. */
const MOST_LEVELS = 200;

/** None is a value, too. */
function or<A, B>(value: A | undefined, otherwise: () => B): A | B {
  return value === undefined ? otherwise() : value;
}

type Leave = 'break' | 'continue' | undefined;

interface Macro {
  readonly name: string;
  readonly signature: Signature;
  readonly body: readonly Statement[];
  readonly uses: ReadonlySet<string>;
}

export class Interpreter {
  #levels = 0;
  #text: string[] = [];

  run(statements: readonly Statement[], scope: Scope): string {
    return this.#captured(() => this.#all(statements, scope));
  }

  /** What is written meanwhile. */
  #captured(work: () => void): string {
    const outer = this.#text;
    this.#text = [];
    try {
      work();
      return this.#text.join('');
    } finally {
      this.#text = outer;
    }
  }

  #deeper<T>(work: () => T): T {
    if (++this.#levels > MOST_LEVELS) throw new TemplateRuntimeError('loops and macros go too deep');
    try {
      return work();
    } finally {
      this.#levels--;
    }
  }

  #all(statements: readonly Statement[], scope: Scope): Leave {
    for (const statement of statements) {
      const leave = this.#one(statement, scope);
      if (leave) return leave;
    }
    return undefined;
  }

  #one(statement: Statement, scope: Scope): Leave {
    switch (statement.kind) {
      case 'text':
        this.#text.push(statement.text);
        return undefined;
      case 'output':
        this.#text.push(toText(this.#output(statement.value, scope)));
        return undefined;
      case 'if': {
        const taken = statement.branches.find(({ test }) => isTrue(this.#value(test, scope)));
        return this.#all(taken ? taken.body : statement.otherwise, scope);
      }
      case 'for':
        return this.#for(statement, scope);
      case 'set':
        this.#assign(statement.target, this.#value(statement.value, scope), scope);
        return undefined;
      case 'set-block': {
        const text = this.#inner(statement.body, scope);
        const value = statement.filter ? this.#filtered(statement.filter, text, scope) : text;
        this.#assign(statement.target, value, scope);
        return undefined;
      }
      case 'macro':
        scope.set(statement.name, this.#macro(statement, scope));
        return undefined;
      case 'call':
        this.#text.push(toText(this.#callBlock(statement, scope)));
        return undefined;
      case 'filter-block': {
        const text = this.#inner(statement.body, scope);
        this.#text.push(toText(this.#filtered(statement.filter, text, scope)));
        return undefined;
      }
      case 'with': {
        const inner = new Scope(scope);
        const values = statement.values.map((value) => this.#value(value, scope));
        for (const [index, target] of statement.targets.entries())
          this.#assign(target, values[index] ?? null, inner);
        return this.#all(statement.body, inner);
      }
      case 'scope':
        this.#text.push(this.#inner(statement.body, scope));
        return undefined;
      case 'break':
      case 'continue':
        return statement.kind;
    }
  }

  /** The text of a body in a scope of its own. */
  #inner(body: readonly Statement[], scope: Scope): string {
    return this.#captured(() => this.#all(body, new Scope(scope)));
  }

  /** Nothing is escaped, so `safe` at the very end changes nothing; in front of other filters it would. */
  #output(value: Expression, scope: Scope): Value {
    const isSafe = value.kind === 'filter' && value.name === 'safe' && value.of !== undefined;
    return this.#value(isSafe && value.of ? value.of : value, scope);
  }

  #for(statement: Extract<Statement, { kind: 'for' }>, scope: Scope): Leave {
    const run = (of: Value, depth: number): void => {
      const filter = statement.filter;
      const items = [...iterate(of)].filter((item) => {
        if (!filter) return true;
        const inner = new Scope(scope);
        this.#assign(statement.target, item, inner);
        return isTrue(this.#value(filter, inner));
      });
      if (items.length === 0) {
        this.#all(statement.otherwise, new Scope(scope));
        return;
      }
      const recurse = (inner: Value, level: number): Value =>
        this.#captured(() => this.#deeper(() => run(inner, level)));
      const { loop, moveTo } = loopVariable(items, depth, statement.recursive ? recurse : undefined);
      for (const [index, item] of items.entries()) {
        const inner = new Scope(scope);
        moveTo(index);
        inner.set('loop', loop);
        this.#assign(statement.target, item, inner);
        if (this.#all(statement.body, inner) === 'break') return;
      }
    };
    this.#deeper(() => run(this.#value(statement.of, scope), 0));
    return undefined;
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.kind === 'name') {
      scope.set(target.name, value);
      return;
    }
    if (target.kind === 'member') {
      const namespace = scope.get(target.namespace);
      if (!(namespace instanceof Namespace))
        throw new TemplateRuntimeError(`cannot assign attribute '${target.name}' on what is no namespace`);
      namespace.members.set(target.name, value);
      return;
    }
    if (value instanceof Undefined) throw value.error;
    const values = [...iterate(value)];
    if (values.length !== target.items.length)
      throw new TemplateRuntimeError(`${target.items.length} names for ${values.length} values`);
    for (const [index, item] of target.items.entries()) this.#assign(item, values[index] ?? null, scope);
  }

  #macro({ name, signature, body, uses }: Macro, scope: Scope): Callable {
    const { names, defaults } = signature;
    return new Callable(name, ({ positional, named }) =>
      this.#deeper(() => {
        const inner = new Scope(scope);
        const rest = new Map(named);
        for (const [index, parameter] of names.entries()) {
          const given = or(positional[index], () => rest.get(parameter));
          if (positional[index] !== undefined && rest.has(parameter))
            throw new TemplateRuntimeError(`macro '${name}' got two values for '${parameter}'`);
          rest.delete(parameter);
          const fallback = defaults[index - (names.length - defaults.length)];
          inner.set(
            parameter,
            or(given, () =>
              fallback
                ? this.#value(fallback, inner)
                : new Undefined(`parameter '${parameter}' of '${name}'`),
            ),
          );
        }
        const caller = rest.get('caller');
        if (uses.has('caller')) inner.set('caller', caller ?? new Undefined('no caller defined; caller'));
        if (caller !== undefined && uses.has('caller')) rest.delete('caller');
        if (uses.has('kwargs')) inner.set('kwargs', new Dict(rest));
        else if (rest.size > 0)
          throw new TemplateRuntimeError(
            `macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`,
          );
        const more = positional.slice(names.length);
        if (uses.has('varargs')) inner.set('varargs', new Tuple(more));
        else if (more.length > 0)
          throw new TemplateRuntimeError(`macro '${name}' takes not more than ${names.length} arguments`);
        return this.#captured(() => this.#all(body, inner));
      }),
    );
  }

  #callBlock(statement: Extract<Statement, { kind: 'call' }>, scope: Scope): Value {
    if (statement.call.kind !== 'call') throw new Error('a call block without a call');
    const { signature, body, uses, call } = statement;
    const caller = this.#macro({ name: 'caller', signature, body, uses }, scope);
    const args = this.#args(call.args, scope);
    const named = new Map([...args.named, ['caller', caller] as const]);
    return this.#called(this.#value(call.callee, scope), { ...args, named });
  }

  #called(callee: Value, args: CallArguments): Value {
    if (callee instanceof Callable) return callee.call(args);
    if (callee instanceof Members && callee.call) return callee.call(args);
    if (callee instanceof Undefined) throw callee.error;
    throw new TemplateRuntimeError(`'${typeName(callee)}' object is not callable`);
  }

  #args({ positional, named, rest, namedRest }: Arguments, scope: Scope): CallArguments {
    const values = positional.map((value) => this.#value(value, scope));
    if (rest) values.push(...iterate(this.#value(rest, scope)));
    const byName = new Map<string, Value>();
    for (const [name, value] of named) byName.set(name, this.#value(value, scope));
    if (namedRest) {
      const more = this.#value(namedRest, scope);
      if (!(more instanceof Dict)) throw new TemplateRuntimeError("what follows '**' is no mapping");
      for (const [key, value] of more.entries()) byName.set(toText(key), value);
    }
    return { positional: values, named: byName };
  }

  /** The filters of a block, the first of which has no value of its own. */
  #filtered(filter: Expression, value: Value, scope: Scope): Value {
    if (filter.kind !== 'filter') throw new UnsupportedError('other than filters on a block');
    const inner = filter.of === undefined ? value : this.#filtered(filter.of, value, scope);
    return applyFilter(filter.name, inner, this.#args(filter.args, scope));
  }

  #value(expression: Expression, scope: Scope): Value {
    switch (expression.kind) {
      case 'constant':
        return expression.value;
      case 'name':
        return or(scope.get(expression.name), () => {
          if (expression.name === 'self') throw new UnsupportedError("the name 'self'");
          return new Undefined(`'${expression.name}'`);
        });
      case 'list':
        return new List(expression.items.map((item) => this.#value(item, scope)));
      case 'tuple':
        return new Tuple(expression.items.map((item) => this.#value(item, scope)));
      case 'dict':
        return new Dict(
          expression.entries.map(
            ([key, value]) => [this.#value(key, scope), this.#value(value, scope)] as const,
          ),
        );
      case 'attribute':
        return attributeOf(this.#value(expression.of, scope), expression.name);
      case 'item':
        return this.#item(expression, scope);
      case 'slice':
        throw new UnsupportedError('a slice beside other keys');
      case 'call':
        return this.#called(this.#value(expression.callee, scope), this.#args(expression.args, scope));
      case 'filter': {
        if (!expression.of) throw new UnsupportedError('a filter of nothing');
        return applyFilter(
          expression.name,
          this.#value(expression.of, scope),
          this.#args(expression.args, scope),
        );
      }
      case 'test':
        return applyTest(
          expression.name,
          this.#value(expression.of, scope),
          this.#args(expression.args, scope),
        );
      case 'unary':
        return unary(expression.operator, this.#value(expression.of, scope));
      case 'binary':
        return this.#binary(expression, scope);
      case 'concat':
        return expression.parts.map((part) => toText(this.#value(part, scope))).join('');
      case 'compare':
        return this.#compared(expression, scope);
      case 'condition':
        if (isTrue(this.#value(expression.test, scope))) return this.#value(expression.holds, scope);
        return expression.otherwise
          ? this.#value(expression.otherwise, scope)
          : new Undefined('the inline if-expression evaluated to false, and what it has instead');
    }
  }

  #binary(expression: Extract<Expression, { kind: 'binary' }>, scope: Scope): Value {
    const { operator } = expression;
    const left = this.#value(expression.left, scope);
    if (operator === 'and') return isTrue(left) ? this.#value(expression.right, scope) : left;
    if (operator === 'or') return isTrue(left) ? left : this.#value(expression.right, scope);
    return arithmetic(operator, left, this.#value(expression.right, scope));
  }

  #compared(expression: Extract<Expression, { kind: 'compare' }>, scope: Scope): boolean {
    let left = this.#value(expression.first, scope);
    return expression.rest.every(({ operator, value }) => {
      const right = this.#value(value, scope);
      const holds = compare(operator, left, right);
      left = right;
      return holds;
    });
  }

  #item({ of, key }: Extract<Expression, { kind: 'item' }>, scope: Scope): Value {
    const value = this.#value(of, scope);
    if (key.kind !== 'slice') return itemOf(value, this.#value(key, scope));
    if (value instanceof Undefined) throw value.error;
    const [start, stop, step] = [key.start, key.stop, key.step].map((part) =>
      part ? this.#value(part, scope) : undefined,
    );
    const items = indexable(value);
    if (!items) throw new TemplateRuntimeError(`'${typeName(value)}' object is not subscriptable`);
    const taken = sliceOf(items, start, stop, step);
    if (typeof value === 'string') return taken.map(toText).join('');
    if (value instanceof Tuple) return new Tuple(taken);
    return value instanceof View ? new View(taken, value.type) : new List(taken);
  }
}
