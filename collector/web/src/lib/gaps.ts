/** Unknown is not zero: which parts of a chart nobody can speak for. Pure. */
import type { Gap, Point } from './api/types';

/** From and until, in milliseconds since 1970. */
export type Span = [number, number];

/** Puts overlapping and touching spans together, cut to `bounds`. */
export function merge(spans: Span[], bounds: Span): Span[] {
  const cut = spans
    .map(([from, to]): Span => [Math.max(from, bounds[0]), Math.min(to, bounds[1])])
    .filter(([from, to]) => to > from)
    .sort((a, b) => a[0] - b[0]);
  const merged: Span[] = [];
  for (const span of cut) {
    const last = merged.at(-1);
    if (last && span[0] <= last[1]) last[1] = Math.max(last[1], span[1]);
    else merged.push([...span]);
  }
  return merged;
}

/** The spans that facts said to be lost cover. */
export function lost(gaps: Gap[], tables: string[]): Span[] {
  return gaps
    .filter((gap) => gap.table === '*' || tables.includes(gap.table))
    .map((gap): Span => [Date.parse(gap.from_time), Date.parse(gap.to_time)])
    .filter(([from, to]) => Number.isFinite(from) && Number.isFinite(to));
}

/**
 * The spans without a sample in any of the series, when they are longer than `patience_ms`: shorter ones are the
 * pace of sampling and of the way here.
 */
export function silent(series: Point[][], bounds: Span, patience_ms: number): Span[] {
  const times = new Set<number>();
  for (const points of series) for (const [time, value] of points) if (value !== null) times.add(time);
  const known = [...times].filter((time) => time >= bounds[0] && time <= bounds[1]).sort((a, b) => a - b);
  const spans: Span[] = [];
  let before = bounds[0];
  for (const time of [...known, bounds[1]]) {
    if (time - before > patience_ms) spans.push([before, time]);
    before = time;
  }
  return spans;
}

/** One sentence about loss, for a person. */
export function sentence(gaps: Gap[]): string {
  if (gaps.length === 0) return '';
  const count = gaps.reduce((sum, gap) => sum + Number(gap.count), 0);
  const least = gaps.some((gap) => gap.exactness === 'at_least') ? 'at least ' : '';
  const tables = [...new Set(gaps.map((gap) => (gap.table === '*' ? 'any table' : gap.table)))].join(', ');
  const reasons = [...new Set(gaps.map((gap) => `${gap.stage}: ${gap.reason}`))].slice(0, 3).join('; ');
  return `${least}${count} ${count === 1 ? 'row is' : 'rows are'} missing from ${tables} (${reasons})`;
}
