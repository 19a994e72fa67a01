import { describe, expect, it } from 'vitest';
import type { Gap, Point, Series } from '../src/lib/api/types';
import { lost, merge, sentence, silent } from '../src/lib/gaps';
import { charts, joined } from '../src/lib/hostCharts';
import { pointsMax, rangeOf, RANGES, window } from '../src/lib/ranges';
import { columns, last, perSecond, stacked, sum, wholeDisks } from '../src/lib/series';

const gap = (fields: Partial<Gap>): Gap => ({
  host_id: 'h', time: '2026-01-02T03:00:00Z', table: 'metrics', lane: 'metrics', from_time: '2026-01-02T03:00:00Z',
  to_time: '2026-01-02T03:01:00Z', count: 10, exactness: 'exact', stage: 'spool', reason: 'spool_quota', ...fields,
});
const series = (name: string, labels: Record<string, string>, points: Point[] = [[0, 1]]): Series => ({ name, unit: '1', labels, points });

describe('counters', () => {
  it('become rates per second', () => {
    expect(perSecond([[0, 100], [2000, 300]])).toEqual([[0, null], [2000, 100]]);
  });
  it('do not jump over a reset', () => {
    expect(perSecond([[0, 100], [1000, 5], [2000, 15]])).toEqual([[0, null], [1000, null], [2000, 10]]);
  });
  it('are averaged over missing samples, which stay missing', () => {
    expect(perSecond([[0, 0], [1000, null], [2000, 20]])).toEqual([[0, null], [1000, null], [2000, 10]]);
  });
});

describe('lines', () => {
  it('are summed without taking missing for zero', () => {
    expect(sum([[[0, 1], [1, null]], [[0, 2], [1, null], [2, 3]]])).toEqual([[0, 3], [1, null], [2, 3]]);
  });
  it('share one axis of time', () => {
    const made = columns([{ name: 'a', points: [[1000, 1]] }, { name: 'b', points: [[0, 2], [1000, 3]] }]);
    expect(made).toEqual({ times: [0, 1], values: [[null, 1], [2, 3]] });
  });
  it('stack, and break where one is missing', () => {
    expect(stacked([[1, 2, null], [1, null, 4]])).toEqual([[1, 2, null], [2, null, null]]);
  });
  it('end in the last known value', () => {
    expect(last([[0, 1], [1, 2], [2, null]])).toBe(2);
    expect(last([])).toBeNull();
  });
});

describe('disks', () => {
  const names = (all: Series[]) => wholeDisks(all).map((one) => one.labels['system.device']);
  const of = (...devices: string[]) => devices.map((device) => series('system.disk.io', { 'system.device': device }));
  it('are counted once, without their partitions and mappings', () => {
    expect(names(of('sda', 'sda1', 'nvme0n1', 'nvme0n1p2', 'dm-0'))).toEqual(['sda', 'nvme0n1']);
  });
  it('are counted by partition where the disk is not there', () => {
    expect(names(of('xvda1', 'vdb'))).toEqual(['xvda1', 'vdb']);
  });
});

describe('gaps', () => {
  it('are unknown for their own table and for any', () => {
    const from = Date.parse('2026-01-02T03:00:00Z');
    expect(lost([gap({}), gap({ table: 'findings' }), gap({ table: '*' })], ['metrics'])).toEqual([[from, from + 60_000], [from, from + 60_000]]);
  });
  it('are merged and cut to the chart', () => {
    expect(merge([[5, 10], [-5, 2], [9, 12], [30, 40]], [0, 20])).toEqual([[0, 2], [5, 12]]);
  });
  it('are where samples are silent for longer than patience', () => {
    expect(silent([[[0, 1], [1000, 1], [60_000, 2], [61_000, null]]], [0, 62_000], 5000)).toEqual([[1000, 60_000]]);
  });
  it('cover all of a range without a sample', () => {
    expect(silent([], [0, 60_000], 5000)).toEqual([[0, 60_000]]);
  });
  it('end where any series of the chart has a sample', () => {
    expect(silent([[[0, 1], [20_000, null]], [[0, null], [20_000, 3]]], [0, 20_000], 30_000)).toEqual([]);
  });
  it('are told in one sentence', () => {
    expect(sentence([gap({}), gap({ count: '5', exactness: 'at_least' })])).toBe('at least 15 rows are missing from metrics (spool: spool_quota)');
    expect(sentence([])).toBe('');
  });
});

describe('ranges', () => {
  it('fall back to the first for an unknown key', () => {
    expect(rangeOf('1000y').key).toBe('5m');
    expect(rangeOf(null).key).toBe('5m');
  });
  it('ask for no more points than the API gives or a chart shows', () => {
    for (const range of RANGES) expect(pointsMax(range)).toBeLessThanOrEqual(300);
  });
});

describe('the window of a range', () => {
  it('moves by whole buckets and holds now', () => {
    for (const range of RANGES) {
      const step = range.ms / pointsMax(range);
      const now = Date.parse('2026-01-02T03:04:05.678Z');
      const { from, to } = window(range, now);
      expect(Number.isInteger(step)).toBe(true);
      expect(to % step).toBe(0);
      expect(to - from).toBe(range.ms);
      expect(now).toBeLessThan(to);
      expect(to - now).toBeLessThanOrEqual(step);
    }
  });
});

describe('charts of a host', () => {
  const answer = (all: Series[]) => ({ from: '', to: '', step_ms: 1000, series: all, truncated: false, gaps: [] });
  it('take the modes of many processors from several answers', () => {
    const one = answer([series('system.cpu.utilization', { 'cpu.mode': 'user' })]);
    const other = { ...answer([series('system.cpu.utilization', { 'cpu.mode': 'system' })]), truncated: true };
    expect(joined([one, other])).toMatchObject({ truncated: true, series: [one.series[0], other.series[0]] });
    expect(joined([])).toBeNull();
  });
  it('leave out what the host does not offer', () => {
    expect(charts([answer([]), answer([]), answer([])])).toEqual([]);
  });
  it('take the whole machine, not its processors', () => {
    const cpu = [
      series('system.cpu.utilization', { 'cpu.mode': 'user' }, [[0, 0.2]]),
      series('system.cpu.utilization', { 'cpu.mode': 'user', 'cpu.logical_number': '0' }, [[0, 0.9]]),
    ];
    expect(charts([answer(cpu), answer([]), answer([])])[0]?.lines).toEqual([{ name: 'user', points: [[0, 0.2]] }]);
  });
  it('keep loopback apart from the network', () => {
    const io = (name: string) => series('system.network.io', { 'network.interface.name': name, 'network.io.direction': 'transmit' }, [[0, 0], [1000, 10]]);
    const [network] = charts([answer([]), answer([]), answer([io('lo'), io('eth0')])]);
    expect(network?.lines.map((line) => [line.name, last(line.points)])).toEqual([['sent', 10], ['loopback', 10]]);
  });
});
