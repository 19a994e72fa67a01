// Metric samples of the mock fleet: a function of time, so that what was drawn stays and new points come.
import { BUSY } from './facts.mjs';

const wave = (time, period, phase = 0) => 0.5 + 0.5 * Math.sin((time / 1000 / period) * 2 * Math.PI + phase);
const noise = (time, seed) => {
  const x = Math.sin(Math.floor(time / 1000) * 12.9898 + seed * 78.233) * 43758.5453;
  return x - Math.floor(x);
};
const gib = 1024 ** 3;

/** Name, unit, labels, value at a time in milliseconds. */
const SERIES = [
  ...[['user', 0.35, 37], ['system', 0.12, 23], ['iowait', 0.05, 61], ['softirq', 0.01, 13], ['idle', 0.4, 50]].map(([mode, size, period], seed) => [
    'system.cpu.utilization', '1', { 'cpu.mode': mode }, (t) => size * (0.3 + 0.7 * wave(t, period)) + 0.05 * size * noise(t, seed)]),
  ['system.cpu.utilization', '1', { 'cpu.mode': 'user', 'cpu.logical_number': '0' }, () => 0.99],
  ['system.memory.usage', 'By', { 'system.memory.state': 'used' }, (t) => 9.4 * gib + 0.4 * gib * wave(t, 180)],
  ['system.memory.usage', 'By', { 'system.memory.state': 'cached' }, (t) => 4.1 * gib + 0.2 * gib * wave(t, 90, 1)],
  ['system.memory.usage', 'By', { 'system.memory.state': 'free' }, (t) => 1.4 * gib - 0.4 * gib * wave(t, 180)],
  ...['cpu', 'memory', 'io'].map((resource, seed) => [
    'system.linux.pressure.share', '1', { resource, kind: 'some', window: 'avg10' }, (t) => 0.12 * wave(t, 30 + seed * 20, seed) ** 3 + 0.004 * noise(t, seed)]),
  ['system.cpu.load_average.1m', '{thread}', {}, (t) => 1.2 + 1.5 * wave(t, 120)],
  ['system.cpu.load_average.5m', '{thread}', {}, (t) => 1.5 + 0.5 * wave(t, 400)],
  ...[['receive', 900_000, 45], ['transmit', 240_000, 31]].map(([direction, size, period]) => [
    'system.network.io', 'By', { 'network.interface.name': 'eth0', 'network.io.direction': direction }, (t) => counter(t, size, period)]),
  ['system.network.io', 'By', { 'network.interface.name': 'lo', 'network.io.direction': 'transmit' }, (t) => counter(t, 80_000, 20)],
  ['system.disk.io', 'By', { 'system.device': 'vda', 'disk.io.direction': 'read' }, (t) => counter(t, 400_000, 70)],
  ['system.disk.io', 'By', { 'system.device': 'vda', 'disk.io.direction': 'write' }, (t) => counter(t, 2_000_000, 26)],
  ['system.disk.io', 'By', { 'system.device': 'vda1', 'disk.io.direction': 'write' }, (t) => counter(t, 2_000_000, 26)],
];

/** A counter whose rate swings around `size` per second. */
function counter(time, size, period) {
  const s = (time / 1000) % 1_000_000;
  return size * (s - (period / (2 * Math.PI)) * 0.9 * Math.cos((s / period) * 2 * Math.PI));
}

const offset = (text, now) => {
  if (text === 'now' || !text) return now;
  const [, count, unit] = /^-(\d+)([mhd])$/.exec(text) ?? [];
  if (!count) return Number(text) || Date.parse(text);
  return now - Number(count) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
};
/** Samples of this time were lost, for good. */
const hole = [Math.floor(Date.now() / 1000) * 1000 - 190_000, Math.floor(Date.now() / 1000) * 1000 - 140_000];
const rfc = (ms) => new Date(ms).toISOString().replace('Z', '000Z');

/** The answer of `metrics/range`. Samples of the newest second are still on their way; some are lost. */
export function range(query) {
  const now = Date.now();
  const names = (query.get('name') ?? '').split(',');
  const from = offset(query.get('from') ?? '-15m', now);
  const to = offset(query.get('to'), now);
  const step = Math.max(1000, Math.ceil((to - from) / Number(query.get('points_max') ?? 600)));
  const start = Math.ceil(from / step) * step;
  const series = SERIES.filter(([name]) => query.get('host') === BUSY && names.includes(name)).map(([name, unit, labels, value]) => {
    const points = [];
    for (let time = start; time < to; time += step) {
      const missing = time > now - 1000 || (time > hole[0] && time < hole[1]);
      points.push([time, missing ? null : value(time)]);
    }
    return { name, unit, labels, points };
  });
  const gaps = [{ host_id: BUSY, ingested_at: rfc(hole[1]), time: rfc(hole[1]), table: 'metrics', lane: 'metrics', from_time: rfc(hole[0]), to_time: rfc(hole[1]), count: 1840, exactness: 'at_least', stage: 'spool', reason: 'spool_quota' }];
  return { from: rfc(from), to: rfc(to), step_ms: step, series, truncated: false, gaps };
}
