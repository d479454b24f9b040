// The template function `strftime_now`: the local time in a format of C, in English.

import { UnsupportedError } from './errors.js';

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];

export function formatTime(now: Date, format: string): string {
  return format.replace(/%([-_0^#]?)([\s\S]?)/g, (whole, flag: string, letter: string) => {
    const field = fieldOf(now, letter);
    if (field === undefined) throw new UnsupportedError(`the time format '${whole}'`);
    if (typeof field === 'string') {
      if (flag !== '') throw new UnsupportedError(`the time format '${whole}'`);
      return field;
    }
    const { value, width, fill } = field;
    if (flag === '^' || flag === '#') throw new UnsupportedError(`the time format '${whole}'`);
    const filling = flag === '_' ? ' ' : flag === '0' ? '0' : fill;
    return flag === '-' ? String(value) : String(value).padStart(width, filling);
  });
}

interface NumberField {
  readonly value: number;
  readonly width: number;
  readonly fill: '0' | ' ';
}

function fieldOf(now: Date, letter: string): string | NumberField | undefined {
  const number = (value: number, width = 2, fill: '0' | ' ' = '0') => ({ value, width, fill });
  const [year, month, day] = [now.getFullYear(), now.getMonth(), now.getDate()];
  const [hour, minute, second] = [now.getHours(), now.getMinutes(), now.getSeconds()];
  const yearDay = Math.round((Date.UTC(year, month, day) - Date.UTC(year, 0, 1)) / 86_400_000);
  const fields: Readonly<Record<string, () => string | NumberField>> = {
    '%': () => '%',
    n: () => '\n',
    t: () => '\t',
    A: () => DAYS[now.getDay()] ?? '',
    a: () => (DAYS[now.getDay()] ?? '').slice(0, 3),
    B: () => MONTHS[month] ?? '',
    b: () => (MONTHS[month] ?? '').slice(0, 3),
    h: () => (MONTHS[month] ?? '').slice(0, 3),
    p: () => (hour < 12 ? 'AM' : 'PM'),
    Y: () => number(year, 1),
    y: () => number(year % 100),
    C: () => number(Math.floor(year / 100)),
    m: () => number(month + 1),
    d: () => number(day),
    e: () => number(day, 2, ' '),
    H: () => number(hour),
    I: () => number(hour % 12 || 12),
    k: () => number(hour, 2, ' '),
    l: () => number(hour % 12 || 12, 2, ' '),
    M: () => number(minute),
    S: () => number(second),
    j: () => number(yearDay + 1, 3),
    w: () => number(now.getDay(), 1),
    u: () => number(now.getDay() || 7, 1),
    U: () => number(Math.floor((yearDay + 7 - now.getDay()) / 7)),
    W: () => number(Math.floor((yearDay + 7 - ((now.getDay() + 6) % 7)) / 7)),
    F: () => formatTime(now, '%Y-%m-%d'),
    T: () => formatTime(now, '%H:%M:%S'),
    R: () => formatTime(now, '%H:%M'),
    D: () => formatTime(now, '%m/%d/%y'),
    x: () => formatTime(now, '%m/%d/%y'),
    X: () => formatTime(now, '%H:%M:%S'),
    c: () => formatTime(now, '%a %b %e %H:%M:%S %Y'),
  };
  return Object.hasOwn(fields, letter) ? fields[letter]?.() : undefined;
}
