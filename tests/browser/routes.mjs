// What each route that reads answers: status and body.
import { randomUUID } from 'node:crypto';
import * as facts from './facts.mjs';
import { range } from './samples.mjs';

const SEVERITIES = ['info', 'low', 'medium', 'high', 'critical'];

export const fault = (status, code, detail) => [
  status,
  { type: `urn:fleetmend:problem:${code}`, title: code, status, code, detail, instance: randomUUID() },
];
const items = (rows) => [200, { items: rows }];
const page = (rows) => [200, { items: rows, next_cursor: null }];

/** Rows that have what the query asks for, where it asks. */
const filtered = (rows, query, keys) => rows.filter((row) => keys.every((key) => !query.get(key) || row[key] === query.get(key)));

export function answer(path, query, body) {
  const [section, ...ids] = path.split('/');
  switch (section) {
    case 'hosts':
      return ids.length === 0 ? items(facts.hosts()) : host(ids);
    case 'metrics':
      return [200, range(query)];
    case 'findings':
      return ids.length === 0 ? findings(query) : finding(ids);
    case 'actions':
      return ids.length === 0 ? page(filtered(facts.actions(), query, ['ending']).filter((row) => own(row, query))) : action(ids);
    case 'alerts':
      return page(filtered(facts.alerts(), query, ['state']).filter((row) => own(row, query)));
    case 'sites':
      return items(facts.sites().filter((row) => own(row, query)));
    case 'sql':
      return sql(body);
    case 'logout':
      return [204, null];
    default:
      return fault(404, 'not-found', `there is no route /api/v1/${path}`);
  }
}

const own = (row, query) => !query.get('host') || row.host_id === query.get('host');

function host([id, part]) {
  const found = facts.hosts().find((one) => one.host_id === id);
  if (!found) return fault(404, 'not-found', `no host has the id ${id}`);
  if (!part) return [200, found];
  const rows = { probes: facts.probes, sensor: facts.sensor, processes: facts.processes, units: facts.units, models: facts.models }[part];
  return items(id === facts.BUSY ? rows() : []);
}

function findings(query) {
  const least = SEVERITIES.indexOf(query.get('severity') ?? 'info');
  const rows = filtered(facts.findings(), query, ['state', 'kind']).filter((row) => own(row, query));
  return page(rows.filter((row) => SEVERITIES.indexOf(row.severity) >= least));
}

function finding([host, id]) {
  const found = facts.findings().find((one) => one.host_id === host && one.finding_id === id);
  if (!found) return fault(404, 'not-found', `no finding has the id ${id}`);
  const of = (one) => one.finding_id === id;
  const history = [{ ...found, time: found.first_time, count: 1 }, found];
  return [200, { finding: found, history, actions: facts.actions().filter(of), alerts: facts.alerts().filter(of), gaps: [] }];
}

function action([, id]) {
  const found = facts.actions().find((one) => one.action_id === id);
  return found ? [200, found] : fault(404, 'not-found', `no action has the id ${id}`);
}

function sql({ query }) {
  if (!/^\s*(select|show|describe|explain)/i.test(query)) {
    return fault(400, 'invalid-query', 'SQL error: ParserError("Expected: a SELECT, found: slect at Line: 1, Column: 1")');
  }
  const columns = [{ name: 'comm', type: 'Utf8' }, { name: 'execs', type: 'Int64' }, { name: 'parent', type: 'Utf8' }];
  const rows = [['bash', 9120, 'sshd'], ['nginx', 441, null], ['python3', 37, 'cron']];
  return [200, { columns, rows, truncated: false, gaps: [], elapsed_ms: 12.4 }];
}
