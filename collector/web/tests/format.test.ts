import { describe, expect, it } from 'vitest';
import { absolute, bytes, measured, milliseconds, number, relative, share, span, whole } from '../src/lib/format';

const NOW = Date.parse('2026-01-02T03:04:05.000006Z');

describe('format', () => {
  it('groups digits, also of numbers beyond 2^53', () => {
    expect(whole('9223372036854775807')).toBe('9\u2009223\u2009372\u2009036\u2009854\u2009775\u2009807');
    expect(whole(999)).toBe('999');
    expect(whole(null)).toBe('–');
  });
  it('shows sizes in binary units', () => {
    expect(bytes(0)).toBe('0 B');
    expect(bytes(1023)).toBe('1023 B');
    expect(bytes(1536)).toBe('1.5 KiB');
    expect(bytes('1099511627776')).toBe('1.0 TiB');
    expect(bytes(null)).toBe('–');
  });
  it('keeps three digits of a number', () => {
    expect(number(0.12345)).toBe('0.123');
    expect(number(1234.5)).toBe('1\u2009235');
    expect(number(Number.NaN)).toBe('–');
    expect(number(0)).toBe('0');
    expect(number(0.99991)).toBe('0.99991');
  });
  it('does not show a missing share as zero', () => {
    expect(share(null)).toBe('–');
    expect(share(0)).toBe('0.0 %');
    expect(share(0.5)).toBe('50 %');
  });
  it('shows spans by their two largest parts', () => {
    expect(span(90_061_000).replaceAll('\u00a0', ' ')).toBe('1 d 1 h');
    expect(span(3_600_000).replaceAll('\u00a0', ' ')).toBe('1 h');
    expect(span(3_605_000).replaceAll('\u00a0', ' ')).toBe('1 h');
    expect(span(250)).toBe('250 ms');
    expect(span(1800).replaceAll('\u00a0', ' ')).toBe('1.8 s');
    expect(milliseconds(1234)).toBe('1.23 s');
  });
  it('shows times relative to now in both directions', () => {
    expect(relative('2026-01-02T03:03:05Z', NOW).replaceAll('\u00a0', ' ')).toBe('1 min ago');
    expect(relative('2026-01-04T03:04:06Z', NOW).replaceAll('\u00a0', ' ')).toBe('in 2 d');
    expect(relative('2026-01-02T03:04:05Z', NOW)).toBe('now');
    expect(relative('nonsense', NOW)).toBe('–');
    expect(relative(null, NOW)).toBe('–');
  });
  it('shows the absolute time with its offset', () => {
    expect(absolute('2026-01-02T03:04:05.006Z')).toMatch(/^2026-01-0\d \d\d:\d\d:05\.006 [+-]\d\d:\d\d$/);
  });
  it('reads the unit of evidence from its key', () => {
    expect(measured('used_bytes', 2048)).toBe('2.0 KiB');
    expect(measured('cpu_core_pct', 187.25)).toBe('187 %');
    expect(measured('ended', true)).toBe('yes');
    expect(measured('pid', 20411)).toBe('20411');
    expect(measured('bytes', 2048)).toBe('2.0 KiB');
    expect(measured('time', '2026-01-02T03:04:05.006Z')).toMatch(/^2026-01-0\d /);
    expect(measured('cgroup', null)).toBe('–');
    expect(measured('window_s', 90).replaceAll('\u00a0', ' ')).toBe('1 min 30 s');
  });
});
