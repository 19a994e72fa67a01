// A server that speaks docs/specs/api.md over the mock fleet, and serves the built dashboard under the collector's own
// content security policy, which is read from its source.
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as facts from './facts.mjs';
import { range } from './samples.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const dist = join(root, 'collector/web/dist');
export const USER = 'admin';
export const PASSWORD = 'correct horse battery';
/** Just above what the client refreshes ahead, so that a test sees it refresh. */
const ACCESS_S = 36;

function policy() {
  const source = readFileSync(join(root, 'collector/api/src/headers.rs'), 'utf8');
  const text = /const POLICY: &str = "([^"]+)"/.exec(source)?.[1];
  if (!text) throw new Error('collector/api/src/headers.rs has no POLICY');
  return text.replace(/\\\s+/g, '');
}

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };

/** Starts it on a free port of loopback. `seen` counts what was asked for. */
export async function start() {
  if (!existsSync(join(dist, 'index.html'))) throw new Error('the dashboard is not built: run `npm run build` in collector/web');
  const csp = policy();
  const seen = { login: 0, refresh: 0, reused: 0, range: 0, unauthenticated: 0 };
  const access = new Map();
  const refresh = new Map();

  function session() {
    const made = { access_token: randomUUID(), refresh_token: randomUUID() };
    const expires = Date.now() + ACCESS_S * 1000;
    access.set(made.access_token, expires);
    refresh.set(made.refresh_token, true);
    return { ...made, token_type: 'Bearer', expires_at: new Date(expires).toISOString(), refresh_expires_at: facts.ago(-43_200), user: USER, role: 'admin' };
  }

  const json = (response, status, body) => {
    const problem = status >= 400;
    response.writeHead(status, { 'content-type': problem ? 'application/problem+json' : 'application/json', 'cache-control': 'no-store' });
    response.end(JSON.stringify(body));
  };
  const problem = (response, status, code, detail) => json(response, status, { type: `urn:fleetmend:problem:${code}`, title: code, status, code, detail, instance: randomUUID() });
  const page = (response, items) => json(response, 200, { items, next_cursor: null });

  function open(path, body, response) {
    if (path === 'login') {
      seen.login += 1;
      if (body.user !== USER || body.password !== PASSWORD) return problem(response, 401, 'wrong-credentials', 'user or password is wrong'), true;
      return json(response, 200, session()), true;
    }
    if (path === 'refresh') {
      if (!refresh.has(body.refresh_token)) return problem(response, 401, 'unauthenticated', 'no such refresh token'), true;
      if (!refresh.get(body.refresh_token)) {
        seen.reused += 1;
        return problem(response, 401, 'refresh-reused', 'the refresh token was used twice'), true;
      }
      seen.refresh += 1;
      refresh.set(body.refresh_token, false);
      return json(response, 200, session()), true;
    }
    return false;
  }

  function answer(path, query, body, response) {
    const [section, first, second] = path.split('/');
    const own = (items) => items.filter((one) => !query.get('host') || one.host_id === query.get('host'));
    if (path === 'hosts') return json(response, 200, { items: facts.hosts() });
    if (section === 'hosts') {
      const host = facts.hosts().find((one) => one.host_id === first);
      if (!host) return problem(response, 404, 'not-found', `no host has the id ${first}`);
      if (!second) return json(response, 200, host);
      const rows = { probes: facts.probes, processes: facts.processes, units: facts.units, models: facts.models }[second];
      return json(response, 200, { items: first === facts.BUSY ? rows() : [] });
    }
    if (path === 'metrics/range') {
      seen.range += 1;
      return json(response, 200, range(query));
    }
    if (path === 'findings') {
      const order = ['info', 'low', 'medium', 'high', 'critical'];
      const least = order.indexOf(query.get('severity') ?? 'info');
      return page(response, own(facts.findings()).filter((one) => order.indexOf(one.severity) >= least && (!query.get('state') || one.state === query.get('state')) && (!query.get('kind') || one.kind === query.get('kind'))));
    }
    if (section === 'findings') {
      const finding = facts.findings().find((one) => one.host_id === first && one.finding_id === second);
      if (!finding) return problem(response, 404, 'not-found', `no finding has the id ${second}`);
      const of = (one) => one.finding_id === second;
      return json(response, 200, { finding, history: [{ ...finding, time: finding.first_time, count: 1 }, finding], actions: facts.actions().filter(of), alerts: facts.alerts().filter(of), gaps: [] });
    }
    if (path === 'actions') return page(response, own(facts.actions()).filter((one) => !query.get('ending') || one.ending === query.get('ending')));
    if (section === 'actions') {
      const action = facts.actions().find((one) => one.action_id === second);
      return action ? json(response, 200, action) : problem(response, 404, 'not-found', `no action has the id ${second}`);
    }
    if (path === 'alerts') return page(response, own(facts.alerts()).filter((one) => !query.get('state') || one.state === query.get('state')));
    if (path === 'sites') return json(response, 200, { items: own(facts.sites()) });
    if (path === 'sql') {
      if (!/^\s*(select|show|describe|explain)/i.test(body.query)) return problem(response, 400, 'invalid-query', 'SQL error: ParserError("Expected: a SELECT, found: slect at Line: 1, Column: 1")');
      return json(response, 200, { columns: [{ name: 'comm', type: 'Utf8' }, { name: 'execs', type: 'Int64' }, { name: 'parent', type: 'Utf8' }], rows: [['bash', 9120, 'sshd'], ['nginx', 441, null], ['python3', 37, 'cron']], truncated: false, gaps: [], elapsed_ms: 12.4 });
    }
    if (path === 'logout') return response.writeHead(204).end();
    return problem(response, 404, 'not-found', `there is no route /api/v1/${path}`);
  }

  function file(path, response) {
    const wanted = extname(path) ? normalize(path) : '/index.html';
    const name = join(dist, wanted);
    if (!name.startsWith(dist) || !existsSync(name)) return problem(response, 404, 'not-found', `there is no file ${path}`);
    response.writeHead(200, { 'content-type': TYPES[extname(name)] ?? 'application/octet-stream', 'content-security-policy': csp, 'x-content-type-options': 'nosniff' });
    response.end(readFileSync(name));
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (!url.pathname.startsWith('/api/v1/')) return file(url.pathname, response);
    let text = '';
    for await (const part of request) text += part;
    const body = text ? JSON.parse(text) : {};
    const path = decodeURIComponent(url.pathname.slice('/api/v1/'.length));
    if (open(path, body, response)) return;
    const token = (request.headers.authorization ?? '').replace('Bearer ', '');
    if (!((access.get(token) ?? 0) > Date.now())) {
      seen.unauthenticated += 1;
      return problem(response, 401, 'unauthenticated', 'the access token is missing, wrong or expired');
    }
    answer(path, url.searchParams, body, response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    seen,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
