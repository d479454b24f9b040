// Bars, series and rows of layers as SVG text, coloured by classes: browsers load this file as it is, so it imports nothing.

/** What a colour means; `src/drawing/look.ts` says which it is. */
export type Kind = 'compute' | 'wait' | 'other' | 'gpu' | 'dram' | 'nvme' | 'rate';

export interface Part {
  readonly kind: Kind;
  readonly value: number;
}

/** Drawn to these sizes, and stretched to the room there is. */
const WIDE = 1000;

const AS_TEXT: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** For element content and for attributes in quotes. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => AS_TEXT[character] ?? '');
}

/** @param label what somebody hears who does not see it */
function drawing(label: string, high: number, content: string): string {
  return (
    `<svg class="drawing" viewBox="0 0 ${WIDE} ${high}" preserveAspectRatio="none" role="img" ` +
    `aria-label="${escaped(label)}">${content}</svg>`
  );
}

function rect(kind: string, x: number, y: number, size: readonly [number, number]): string {
  const [width, height] = size;
  if (!(width > 0 && height > 0)) return '';
  return `<rect class="${kind}" x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"/>`;
}

function short(value: number): string {
  return String(Math.round(value * 100) / 100);
}

/** Parts of a whole, side by side. @param whole their sum, or more */
export function splitBar(label: string, parts: readonly Part[], whole: number): string {
  let x = 0;
  const rects = parts.map(({ kind, value }) => {
    const width = whole > 0 ? (Math.max(0, value) / whole) * WIDE : 0;
    const drawn = rect(kind, x, 0, [width, 24]);
    x += width;
    return drawn;
  });
  return drawing(label, 24, rect('ground', 0, 0, [WIDE, 24]) + rects.join(''));
}

/** A rate, and its limit as a mark where it is known. @param most what the whole width stands for */
export function rateBar(
  label: string,
  rate: { readonly achieved: number; readonly limit?: number },
  most: number,
): string {
  const at = (value: number) => (most > 0 ? (Math.min(value, most) / most) * WIDE : 0);
  const mark = rate.limit === undefined ? '' : rect('mark', Math.min(at(rate.limit), WIDE - 6), 0, [6, 24]);
  return drawing(
    label,
    24,
    rect('ground', 0, 0, [WIDE, 24]) + rect('rate', 0, 5, [at(rate.achieved), 14]) + mark,
  );
}

export interface Column {
  /** Its share of the width, as all columns add them up. */
  readonly width: number;
  /** From the bottom up. */
  readonly parts: readonly Part[];
}

/**
 * Columns beside each other.
 * @param most the value that is as high as the drawing
 * @param apart the share of a column that is left free beside it: none where columns are moments
 */
export function columns(label: string, all: readonly Column[], most: number, apart = 0): string {
  const high = 160;
  const whole = all.reduce((sum, { width }) => sum + width, 0);
  let [x, content] = [0, ''];
  for (const { width, parts } of all) {
    const wide = whole > 0 ? (width / whole) * WIDE : 0;
    let y = high;
    for (const { kind, value } of parts) {
      const tall = most > 0 ? (Math.max(0, value) / most) * high : 0;
      y -= tall;
      // Neighbours that touch overlap a little, or seams would be seen between them.
      content += rect(kind, x, y, [apart > 0 ? wide * (1 - apart) : wide + 0.3, tall]);
    }
    x += wide;
  }
  return drawing(label, high, rect('ground', 0, 0, [WIDE, high]) + content);
}

/** A value over time as a filled line. @param most the value that is as high as the drawing */
export function line(label: string, values: readonly number[], most: number, high = 120): string {
  const step = values.length > 1 ? WIDE / (values.length - 1) : WIDE;
  const y = (value: number) =>
    short(high - (most > 0 ? Math.min(1, Math.max(0, value) / most) : 0) * (high - 4));
  const points = values.map((value, index) => `${short(index * step)},${y(value)}`).join(' ');
  const area =
    values.length > 1 ? `<polygon class="area" points="0,${high} ${points} ${WIDE},${high}"/>` : '';
  const stroke = `<polyline class="line" points="${points}"/>`;
  return drawing(label, high, rect('ground', 0, 0, [WIDE, high]) + area + stroke);
}

/** Layers as a row of cells, in the colour of where each rests. */
export function layerStrip(label: string, tiers: readonly Kind[]): string {
  return columns(
    label,
    tiers.map((kind) => ({ width: 1, parts: [{ kind, value: 1 }] })),
    1,
    tiers.length > 100 ? 0 : 0.08,
  );
}

export function legend(entries: readonly (readonly [Kind, string])[]): string {
  const items = entries.map(
    ([kind, text]) =>
      `<li><svg class="key" viewBox="0 0 10 10" aria-hidden="true">${rect(kind, 0, 0, [10, 10])}</svg>${escaped(text)}</li>`,
  );
  return `<ul class="legend">${items.join('')}</ul>`;
}
