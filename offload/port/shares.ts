// Which of the experts that a device lacks the host's processor computes, and what that depends on.

/**
 * Which of the experts that a device lacks the host computes: none, all, or so many that both end together, by rates that are
 * corrected as they are measured.
 */
export type ShareRule = 'none' | 'all' | 'balanced';

/** Milliseconds. */
export interface ShareRates {
  /** One expert on its way to the device, and one that the host computes. */
  readonly bringMs: number;
  readonly computeMs: number;
  /** What the device, and the host, take beside. */
  readonly deviceMs: number;
  readonly hostMs: number;
}
