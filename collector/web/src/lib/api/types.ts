/** The shapes of `docs/specs/api.md`. Integers beyond 2^53 − 1 come as text. */

export type Whole = number | string;
export type Time = string;
export type Role = 'admin' | 'viewer';
export type Severity = 'info' | 'low' | 'medium' | 'high' | 'critical';
export type Verdict = 'up' | 'down' | 'unknown';
export type ProbeState = 'REAL' | 'DEGRADED' | 'BROKEN';
export type Ending = 'healed' | 'no-op' | 'reverted' | 'failed-safe' | 'unknown';
export type Outcome = Ending | 'refused' | 'would_act' | 'under_way';
export type AlertState = 'pending' | 'waiting' | 'firing' | 'resolved' | 'healed' | 'late' | 'unknown';
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

export interface Tokens {
  access_token: string;
  token_type: string;
  expires_at: Time;
  refresh_token: string;
  refresh_expires_at: Time;
  user: string;
  role: Role;
}

export interface Items<T> {
  items: T[];
}

export interface Page<T> extends Items<T> {
  next_cursor: string | null;
}

export interface Host {
  host_id: string;
  hostname: string | null;
  os: string | null;
  kernel: string | null;
  arch: string | null;
  cpu_count: number | null;
  memory_bytes: Whole | null;
  boot_time: Time | null;
  agent_version: string | null;
  healing: 'observe' | 'enforce' | 'absent' | null;
  info_time: Time | null;
  enrolled_at: Time | null;
  revoked: boolean;
  removed_at: Time | null;
  connected: boolean;
  connected_since: Time | null;
  remote_address: string | null;
  last_seen: Time | null;
  clock_ahead_ms: number | null;
  probes: { real: number; degraded: number; broken: number };
  findings_open: Record<Severity, number> & { total: number; worst: Severity | null };
  cpu_utilization: number | null;
  memory_utilization: number | null;
  metrics_time: Time | null;
}

export interface ProbeStatus {
  time: Time;
  probe: string;
  state: ProbeState;
  reason: string;
  hint: string;
  seen: Whole;
  delivered: Whole;
  lost: Whole;
}

export interface SensorAccount {
  time: Time;
  family: string;
  seen: Whole;
  filtered: Whole;
  aggregated: Whole;
  delivered: Whole;
  ring_full: Whole;
  map_full: Whole;
  shed: Whole;
  evicted: Whole;
  runs: Whole;
  run_us: Whole;
  run_time_sampled: boolean;
  ring_bytes_peak: Whole;
  ring_bytes: Whole;
}

export interface Process {
  time: Time;
  pid: number;
  ppid: number;
  start_boot_ns: Whole;
  comm: string;
  exe: string | null;
  exe_deleted: boolean;
  command_line: string;
  uid: number;
  state: string;
  unit: string | null;
  cgroup: string | null;
  cpu_core_pct: number | null;
  rss_bytes: Whole;
  read_bytes: Whole;
  write_bytes: Whole;
  fd_count: number | null;
  thread_count: number;
}

export interface Unit {
  time: Time;
  unit: string;
  description: string;
  load_state: string;
  active_state: string;
  sub_state: string;
  main_pid: number;
  restart_count: number;
  result: string;
}

export interface Model {
  time: Time;
  model: string;
  version: string;
  digest: string;
  state: 'learning' | 'active' | 'shadow' | 'refused';
  reason: string;
  windows: Whole;
  fitted_at: Time | null;
  inference_p99_us: number | null;
  score: number | null;
}

export type Point = [number, number | null];

export interface Series {
  name: string;
  unit: string;
  labels: Record<string, string>;
  points: Point[];
}

export interface Gap {
  host_id: string;
  time: Time;
  table: string;
  lane: string;
  from_time: Time;
  to_time: Time;
  count: Whole;
  exactness: 'exact' | 'at_least';
  stage: string;
  reason: string;
}

export interface Range {
  from: Time;
  to: Time;
  step_ms: number;
  series: Series[];
  truncated: boolean;
  gaps: Gap[];
}

export interface Factor {
  feature: string;
  value: Json;
  expected: Json;
  contribution: number | null;
}

export interface Finding {
  host_id: string;
  time: Time;
  finding_id: string;
  kind: 'anomaly' | 'sigma' | 'threshold' | 'site' | 'behaviour' | 'integrity';
  rule: string;
  title: string;
  severity: Severity;
  state: 'open' | 'resolved';
  first_time: Time;
  count: Whole;
  score: number | null;
  subject_kind: string;
  subject: string;
  pid: number | null;
  techniques: string[];
  tactics: string[];
  factors: Factor[];
  evidence: Json;
}

export interface FindingDetail {
  finding: Finding;
  history: Finding[];
  actions: Action[];
  alerts: Alert[];
  gaps: Gap[];
}

export interface ActionStep {
  time: Time;
  stage: string;
  ending: Ending | null;
  reason: string;
  before: JsonObject;
  after: JsonObject;
  ledger_index: Whole;
}

export interface Action {
  host_id: string;
  action_id: string;
  finding_id: string;
  remedy: string;
  target: string;
  started_at: Time;
  ended_at: Time | null;
  stage: string;
  ending: Ending | null;
  outcome: Outcome;
  reason: string;
  before: JsonObject;
  after: JsonObject;
  asserted_by_agent: boolean;
  steps: ActionStep[];
}

export interface Delivery {
  delivery_id: string | number;
  receiver: string;
  event: 'firing' | 'resolved';
  state: 'waiting' | 'delivered' | 'given_up';
  attempts: number;
  created_at: Time;
  next_attempt_at: Time | null;
  delivered_at: Time | null;
  last_status: number | null;
  last_error: string | null;
}

export interface Alert {
  alert_id: string;
  rule: string;
  state: AlertState;
  severity: Severity;
  host_id: string | null;
  finding_id: string | null;
  subject: string;
  title: string;
  summary: string;
  value: number | null;
  started_at: Time;
  fired_at: Time | null;
  resolved_at: Time | null;
  changed_at: Time;
  deliveries: Delivery[];
}

export interface SiteProbe {
  time: Time;
  site: string;
  url: string;
  verdict: Verdict;
  reason: string;
  remote_address: string | null;
  http_status: number | null;
  redirect_count: number;
  dns_ms: number | null;
  connect_ms: number | null;
  tls_ms: number | null;
  first_byte_ms: number | null;
  total_ms: number | null;
  body_bytes: Whole | null;
  tls_version: string | null;
  certificate_not_after: Time | null;
  certificate_issuer: string | null;
  certificate_fault: string | null;
}

export interface Site {
  host_id: string;
  site: string;
  url: string;
  last: SiteProbe;
  verdicts: { time: Time; verdict: Verdict; total_ms: number | null; http_status: number | null }[];
}

export interface SqlAnswer {
  columns: { name: string; type: string }[];
  rows: Json[][];
  truncated: boolean;
  gaps: Gap[];
  elapsed_ms: number;
}

/** `application/problem+json`. */
export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  code: string;
  detail: string;
  instance?: string;
  faults?: { field: string; reason: string }[];
}
