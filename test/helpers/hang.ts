// How long what a test waits for may take before it counts as hanging: no machine is so busy.

/** Shorter than the limit of a test, so that what hangs is named. */
export const HANG_MS = 300_000;
