/** Numbers, sizes and times as people read them. Pure. */
import type { Json, Whole } from './api/types';

export const NOTHING = '–';

export function whole(value: Whole | null | undefined): string {
  if (value === null || value === undefined) return NOTHING;
  const text = String(value);
  return /^-?\d+$/.test(text) ? text.replace(/\B(?=(\d{3})+$)/g, '\u2009') : text;
}

/** At most three significant digits, never in exponents. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 100) return whole(Math.round(value));
  if (size < 0.001) return value.toExponential(1);
  // What is nearly 1 is not 1: scores live there.
  const text = value.toPrecision(3);
  return String(Number(size < 1 && Math.abs(Number(text)) === 1 ? value.toPrecision(6) : text));
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytes(value: Whole | null | undefined): string {
  if (value === null || value === undefined) return NOTHING;
  let size = Number(value);
  if (!Number.isFinite(size)) return NOTHING;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const text = unit === 0 || Math.abs(size) >= 100 ? size.toFixed(0) : size.toFixed(1);
  return `${text} ${UNITS[unit]}`;
}

export function rate(value: number | null | undefined): string {
  return value === null || value === undefined ? NOTHING : `${bytes(value)}/s`;
}

/** `0.253` → `25.3 %`. */
export function share(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const percent = value * 100;
  return `${percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return NOTHING;
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(2)} s`;
}

const SPANS: [number, string][] = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1000, 's'],
];

/** The two largest parts: `2 d 3 h`, `4 min 10 s`. */
export function span(ms: number): string {
  if (!Number.isFinite(ms)) return NOTHING;
  let rest = Math.abs(ms);
  if (rest < 1000) return `${Math.round(rest)} ms`;
  if (rest < 10_000) return `${Number((rest / 1000).toFixed(1))}\u00a0s`;
  const parts: string[] = [];
  for (const [size, name] of SPANS) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count}\u00a0${name}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(' ');
}

/** `3 min ago`, `in 2 d`; coarse on purpose, the exact time is on hover. */
export function relative(time: string | number | null | undefined, now: number): string {
  if (time === null || time === undefined) return NOTHING;
  const at = typeof time === 'number' ? time : Date.parse(time);
  if (Number.isNaN(at)) return NOTHING;
  const distance = at - now;
  if (Math.abs(distance) < 2000) return 'now';
  const [size, name] = SPANS.find(([size]) => Math.abs(distance) >= size) ?? [1000, 's'];
  const text = `${Math.floor(Math.abs(distance) / size)}\u00a0${name}`;
  return distance < 0 ? `${text} ago` : `in ${text}`;
}

/** Local time to the millisecond, with the offset, so that it can be compared with a log. */
export function absolute(time: string | number | null | undefined): string {
  if (time === null || time === undefined) return NOTHING;
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return NOTHING;
  const two = (value: number) => String(value).padStart(2, '0');
  const offset = -date.getTimezoneOffset();
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${day} ${clock}.${String(date.getMilliseconds()).padStart(3, '0')} ${zone}`;
}

/** Hours, minutes and seconds of the local day. */
export function clock(time: string | number): string {
  return absolute(time).slice(11, 19);
}

const TIME = /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;
/** Numbers that are names: nobody counts them. */
const NAMES = /(^|_)(p?pid|uid|gid|port|id|status)$/;

/** A value of evidence by the unit that its key ends in. */
export function measured(key: string, value: Json): string {
  if (value === null) return NOTHING;
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'object') return JSON.stringify(value);
  if (typeof value === 'string') return value === '' ? NOTHING : TIME.test(value) ? absolute(value) : value;
  if (NAMES.test(key)) return String(value);
  if (key === 'bytes' || key.endsWith('_bytes')) return bytes(value);
  if (key.endsWith('_pct')) return `${number(value)} %`;
  if (key.endsWith('_ms')) return milliseconds(value);
  if (key.endsWith('_us')) return milliseconds(value / 1000);
  if (key.endsWith('_s')) return span(value * 1000);
  return Number.isInteger(value) ? whole(value) : number(value);
}

/** `used_pct` → `used pct`; names with dots stay as they are, for they are names of series. */
export function label(key: string): string {
  return key.includes('.') ? key : key.replaceAll('_', ' ');
}
