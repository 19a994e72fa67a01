/** The ranges of time that charts can show, and how often each is worth asking for again. Pure. */

export interface TimeRange {
  key: string;
  text: string;
  /** `from` of the API. */
  from: string;
  ms: number;
  poll_ms: number;
}

const MINUTE = 60_000;

export const RANGES: readonly TimeRange[] = [
  { key: '5m', text: '5 min', from: '-5m', ms: 5 * MINUTE, poll_ms: 2000 },
  { key: '15m', text: '15 min', from: '-15m', ms: 15 * MINUTE, poll_ms: 2000 },
  { key: '1h', text: '1 h', from: '-1h', ms: 60 * MINUTE, poll_ms: 5000 },
  { key: '6h', text: '6 h', from: '-6h', ms: 360 * MINUTE, poll_ms: 15_000 },
  { key: '24h', text: '24 h', from: '-24h', ms: 1440 * MINUTE, poll_ms: 60_000 },
  { key: '7d', text: '7 d', from: '-7d', ms: 7 * 1440 * MINUTE, poll_ms: 120_000 },
];

const DEFAULT = RANGES[0] as TimeRange;

export function rangeOf(key: string | null): TimeRange {
  return RANGES.find((range) => range.key === key) ?? DEFAULT;
}

/** Buckets worth asking for: a chart has no more pixels, and samples come once a second. */
export function pointsMax(range: TimeRange): number {
  return Math.min(300, Math.max(10, Math.round(range.ms / 1000)));
}

/**
 * What to ask for so that buckets lie on the same grid each time: buckets that move with the clock would make rates
 * of counters flicker. The last bucket is the one that `now` lies in.
 */
export function window(range: TimeRange, now: number): { from: number; to: number } {
  const step = Math.ceil(range.ms / pointsMax(range));
  const to = (Math.floor(now / step) + 1) * step;
  return { from: to - range.ms, to };
}
