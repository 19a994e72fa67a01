/** From the API's series to the columns of a chart. Pure. */
import type { Point, Series } from './api/types';

/** A line of a chart. */
export interface Line {
  name: string;
  points: Point[];
}

/** Times in seconds, then one column of values for each line. */
export interface Columns {
  times: number[];
  values: (number | null)[][];
}

/** What a counter grew by per second; a reset or a missing sample is `null`, never a jump. */
export function perSecond(points: Point[]): Point[] {
  const rates: Point[] = [];
  let before: [number, number] | null = null;
  for (const [time, value] of points) {
    if (value === null) {
      rates.push([time, null]);
      continue;
    }
    const grown = before && value >= before[1] && time > before[0];
    rates.push([time, grown && before ? ((value - before[1]) * 1000) / (time - before[0]) : null]);
    before = [time, value];
  }
  return rates;
}

/** Sum of several series at each time; `null` where none has a value. */
export function sum(all: Point[][]): Point[] {
  const at = new Map<number, number | null>();
  for (const points of all) {
    for (const [time, value] of points) {
      const had = at.get(time) ?? null;
      at.set(time, value === null ? had : (had ?? 0) + value);
    }
  }
  return [...at].sort((a, b) => a[0] - b[0]);
}

/** Brings lines onto one axis of time. */
export function columns(lines: Line[]): Columns {
  const times = [...new Set(lines.flatMap((line) => line.points.map(([time]) => time)))].sort((a, b) => a - b);
  const values = lines.map((line) => {
    const at = new Map(line.points);
    return times.map((time) => at.get(time) ?? null);
  });
  return { times: times.map((time) => time / 1000), values };
}

/** Each line on top of those before it. */
export function stacked(values: (number | null)[][]): (number | null)[][] {
  const sums: (number | null)[][] = [];
  for (const column of values) {
    const below = sums.at(-1);
    sums.push(column.map((value, index) => {
      const base = below ? below[index] : 0;
      return value === null || base === null || base === undefined ? null : base + value;
    }));
  }
  return sums;
}

/** The last value that is known. */
export function last(points: Point[]): number | null {
  return points.findLast(([, value]) => value !== null)?.[1] ?? null;
}

/** Series of this name whose labels satisfy `test`. */
export function select(series: Series[], name: string, test: (labels: Record<string, string>) => boolean): Series[] {
  return series.filter((one) => one.name === name && test(one.labels));
}

/** Whole disks: what a partition or a mapping of them moves is counted with the disk below it already. */
export function wholeDisks(series: Series[]): Series[] {
  const names = new Set(series.map((one) => one.labels['system.device'] ?? ''));
  const physical = [...names].filter((name) => !/^(dm-|md)/.test(name));
  return series.filter((one) => {
    const name = one.labels['system.device'] ?? '';
    if (/^(dm-|md)/.test(name)) return physical.length === 0;
    const parent = /^(nvme\d+n\d+|mmcblk\d+)p\d+$/.exec(name)?.[1] ?? /^([a-z]+)\d+$/.exec(name)?.[1];
    return parent === undefined || !names.has(parent);
  });
}
