// The status line: one line, on terminals only, never in the way of other output.

import { describe, expect, it } from 'vitest';
import { StatusLine } from '../../src/cli/progress.js';

function screen(isTTY: boolean, environment = {}, columns = 20) {
  const written: string[] = [];
  const status = new StatusLine({ isTTY, columns, write: (text) => written.push(text) }, environment);
  return { status, text: () => written.join('') };
}

const ERASE = '\r\x1b[2K';

describe('status line', () => {
  it('replaces itself, cut to the width', () => {
    const { status, text } = screen(true);
    status.show('one');
    status.show('one');
    status.show('a line that is far too long for it');
    status.clear();
    status.clear();
    expect(text()).toBe(`${ERASE}one${ERASE}a line that is far ${ERASE}`);
  });

  it('makes room for lines above it', () => {
    const { status, text } = screen(true);
    status.show('busy');
    status.writeAbove('log\n');
    expect(text()).toBe(`${ERASE}busy${ERASE}log\n${ERASE}busy`);
  });

  it('is absent from a dumb terminal, which cannot take a line back', () => {
    const { status, text } = screen(true, { TERM: 'dumb' });
    status.show('busy');
    status.writeAbove('log\n');
    status.clear();
    expect(text()).toBe('log\n');
  });

  it.each([
    [{}, true],
    [{ NO_COLOR: '' }, true],
    [{ NO_COLOR: '0' }, false],
    [{ TERM: 'dumb' }, false],
  ])('colours with %o: %s', (environment, expected) => {
    expect(screen(true, environment).status.hasColours).toBe(expected);
    expect(screen(false, environment).status.hasColours).toBe(false);
  });

  it('is silent where there is no terminal', () => {
    const { status, text } = screen(false);
    status.show('busy');
    status.writeAbove('log\n');
    status.clear();
    expect(text()).toBe('log\n');
  });
});
