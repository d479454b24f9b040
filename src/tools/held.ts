// The end of a text that may be the beginning of a marker.

/** Where the first of some markers begins; where none does, from where on the text may still become one. */
export function findMarker(
  text: string,
  markers: readonly string[],
): { readonly at: number; readonly marker: string | undefined } {
  let at = text.length;
  let found: string | undefined;
  for (const marker of markers) {
    const place = text.indexOf(marker);
    if (place >= 0 && (found === undefined || place < at)) [at, found] = [place, marker];
  }
  if (found !== undefined) return { at, marker: found };
  for (const marker of markers) {
    for (let length = Math.min(marker.length - 1, text.length); length > 0; length--) {
      if (text.endsWith(marker.slice(0, length))) {
        at = Math.min(at, text.length - length);
        break;
      }
    }
  }
  return { at, marker: undefined };
}
