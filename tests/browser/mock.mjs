// A server that speaks docs/specs/api.md over the mock fleet, and serves the built dashboard under the collector's own
// content security policy, which is read from its source.
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as facts from './facts.mjs';
import { answer, fault } from './routes.mjs';

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
  const problem = (response, ...what) => json(response, ...fault(...what));

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
    if (path === 'metrics/range') seen.range += 1;
    const [status, told] = answer(path, url.searchParams, body);
    if (status === 204) return response.writeHead(204).end();
    json(response, status, told);
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
