// Numbers as people read them, for pages: browsers load this file as it is, so it imports nothing.

export function percent(share: number): string {
  if (!Number.isFinite(share)) return '–';
  return `${(share * 100).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;
}

/** In binary units, with three digits. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${threeDigits(value, unit === 0)} ${units[unit] ?? ''}`;
}

/** In decimal units, as drives and links are specified. */
export function rate(bytesPerSecond: number): string {
  const units = ['kB/s', 'MB/s', 'GB/s', 'TB/s'];
  let [value, unit] = [bytesPerSecond / 1e3, 0];
  while (value >= 1e3 && unit < units.length - 1) [value, unit] = [value / 1e3, unit + 1];
  return `${threeDigits(value, false)} ${units[unit] ?? ''}`;
}

export function flops(perSecond: number): string {
  const units = ['MFLOP/s', 'GFLOP/s', 'TFLOP/s', 'PFLOP/s'];
  let [value, unit] = [perSecond / 1e6, 0];
  while (value >= 1e3 && unit < units.length - 1) [value, unit] = [value / 1e3, unit + 1];
  return `${threeDigits(value, false)} ${units[unit] ?? ''}`;
}

export function duration(seconds: number): string {
  if (seconds < 1) return `${threeDigits(seconds * 1e3, false)} ms`;
  if (seconds < 120) return `${threeDigits(seconds, false)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString('en');
}

/** A rate of tokens, or another small number. */
export function few(value: number): string {
  return threeDigits(value, false);
}

function threeDigits(value: number, isWhole: boolean): string {
  if (isWhole || value >= 100 || value === 0) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}
