/** What states are called, how grave they are, and the mark that says so without colour. Pure. */
import type { AlertState, Outcome, ProbeState, Severity, Verdict } from './api/types';

/** Tones of `app.css`. */
export type Tone = 'good' | 'note' | 'warn' | 'bad' | 'dire' | 'quiet';

export interface Word {
  text: string;
  tone: Tone;
  mark: string;
}

export const SEVERITIES: readonly Severity[] = ['critical', 'high', 'medium', 'low', 'info'];

export const severities: Record<Severity, Word> = {
  critical: { text: 'critical', tone: 'dire', mark: '▲▲' },
  high: { text: 'high', tone: 'bad', mark: '▲' },
  medium: { text: 'medium', tone: 'warn', mark: '◆' },
  low: { text: 'low', tone: 'note', mark: '▽' },
  info: { text: 'info', tone: 'quiet', mark: 'i' },
};

export const probes: Record<ProbeState, Word> = {
  REAL: { text: 'REAL', tone: 'good', mark: '✓' },
  DEGRADED: { text: 'DEGRADED', tone: 'warn', mark: '◐' },
  BROKEN: { text: 'BROKEN', tone: 'bad', mark: '✕' },
};

export const verdicts: Record<Verdict, Word> = {
  up: { text: 'up', tone: 'good', mark: '✓' },
  down: { text: 'down', tone: 'bad', mark: '✕' },
  unknown: { text: 'unknown', tone: 'quiet', mark: '?' },
};

export const outcomes: Record<Outcome, Word> = {
  healed: { text: 'healed', tone: 'good', mark: '✓' },
  'no-op': { text: 'no-op', tone: 'quiet', mark: '○' },
  reverted: { text: 'reverted', tone: 'warn', mark: '↩' },
  'failed-safe': { text: 'failed safe', tone: 'bad', mark: '✕' },
  unknown: { text: 'unknown', tone: 'quiet', mark: '?' },
  refused: { text: 'refused', tone: 'warn', mark: '⊘' },
  would_act: { text: 'would act', tone: 'note', mark: '◌' },
  under_way: { text: 'under way', tone: 'note', mark: '…' },
};

export const outcomeMeaning: Record<Outcome, string> = {
  healed: 'It was done, measured again, and it helped.',
  'no-op': 'Nothing had to be done: the fault was gone before the remedy began.',
  reverted: 'It was done, did not help, and was undone.',
  'failed-safe': 'It could not be brought to a good end; the host was left in the safe state that the reason names.',
  unknown: 'Whether it helped could not be measured, so nothing more was done.',
  refused: 'A guard refused it; nothing was changed.',
  would_act: 'The policy is observe-only: nothing was changed. With a policy that allows it, this would have been done.',
  under_way: 'It has not ended yet.',
};

export const alerts: Record<AlertState, Word> = {
  pending: { text: 'pending', tone: 'note', mark: '…' },
  waiting: { text: 'waiting for healing', tone: 'note', mark: '◌' },
  firing: { text: 'firing', tone: 'bad', mark: '▲' },
  resolved: { text: 'resolved', tone: 'quiet', mark: '○' },
  healed: { text: 'healed', tone: 'good', mark: '✓' },
  late: { text: 'late', tone: 'quiet', mark: '◷' },
  unknown: { text: 'unknown', tone: 'quiet', mark: '?' },
};

export const alertMeaning: Record<AlertState, string> = {
  pending: 'The condition holds, but not yet for as long as the rule asks.',
  waiting: 'A remedy is at work; nobody is paged while it is.',
  firing: 'Receivers were told.',
  resolved: 'It no longer holds.',
  healed: 'A remedy helped before anybody was paged.',
  late: 'The finding was older than 10 minutes when it arrived: recorded, not sent.',
  unknown: 'It cannot be judged: facts are missing.',
};

export const healing: Record<'observe' | 'enforce' | 'absent', Word> = {
  observe: { text: 'observe only', tone: 'note', mark: '◌' },
  enforce: { text: 'heals', tone: 'good', mark: '✓' },
  absent: { text: 'no healer', tone: 'quiet', mark: '○' },
};

export const stages: Record<string, string> = {
  proposed: 'The agent proposed it',
  refused: 'A guard refused it',
  would_act: 'It would have been done',
  journalled: 'Written to the journal, with what undoes it',
  checked: 'The precondition was read, and holds',
  applied: 'It was done',
  verified: 'Measured again: it helped',
  not_verified: 'Measured again: it did not help',
  undone: 'It was undone',
  ended: 'It has its ending',
};

/** A state that a newer collector may know and this build does not. */
export function wordOf<K extends string>(words: Record<K, Word>, key: string): Word {
  return (words as Record<string, Word | undefined>)[key] ?? { text: key, tone: 'quiet', mark: '·' };
}
