import { describe, expect, it } from 'vitest';
import { address, ApiError, Client, type Keeper, type Session } from '../src/lib/api/client';

const START = Date.parse('2026-01-02T03:00:00Z');
const tokens = (index: number, from = START) => ({
  access_token: `access-${index}`,
  token_type: 'Bearer',
  expires_at: new Date(from + 15 * 60_000).toISOString(),
  refresh_token: `refresh-${index}`,
  refresh_expires_at: new Date(from + 12 * 3_600_000).toISOString(),
  user: 'admin',
  role: 'admin' as const,
});
const json = (body: unknown, status = 200) => new Response(JSON.stringify(body), { status });
const refused = (code: string, status: number) => json({ type: 't', title: 't', status, code, detail: `because ${code}` }, status);

function keeper(session: Session | null = null): Keeper & { kept: Session | null } {
  let queue: Promise<unknown> = Promise.resolve();
  return {
    kept: session,
    load() {
      return this.kept;
    },
    save(next) {
      this.kept = next;
    },
    alone(work) {
      const turn = queue.then(work, work);
      queue = turn.catch(() => undefined);
      return turn;
    },
  };
}

type Answer = (path: string, token: string | null, body: string) => Response | Promise<Response>;

/** A client, what it asked for, and a clock to move. */
function client(answer: Answer, kept: Session | null = tokens(1)) {
  const asked: string[] = [];
  const clock = { now: START };
  const keeps = keeper(kept);
  const ends: string[] = [];
  const fetcher = (async (input: string | URL | Request, init?: RequestInit) => {
    const path = String(input).replace('/api/v1/', '');
    asked.push(path);
    const headers = init?.headers as Record<string, string>;
    return answer(path, headers['authorization']?.replace('Bearer ', '') ?? null, String(init?.body ?? ''));
  }) as typeof fetch;
  const made = new Client(keeps, fetcher, () => clock.now, (why) => ends.push(why));
  return { client: made, asked, clock, keeps, ends, fetcher };
}

describe('client', () => {
  it('logs in without a token and keeps the session', async () => {
    const { client: made, keeps } = client((path, token) => {
      expect(path).toBe('login');
      expect(token).toBeNull();
      return json(tokens(7));
    }, null);
    await made.login('admin', 'a long password');
    expect(keeps.kept?.access_token).toBe('access-7');
  });

  it('does not try a refresh when the password is wrong', async () => {
    const { client: made, asked } = client(() => refused('wrong-credentials', 401), null);
    await expect(made.login('admin', 'wrong')).rejects.toMatchObject({ code: 'wrong-credentials', status: 401 });
    expect(asked).toEqual(['login']);
  });

  it('refreshes a token that is about to expire before it is used', async () => {
    const { client: made, asked, clock } = client((path, token) => {
      if (path === 'refresh') return json(tokens(2, START + 15 * 60_000));
      return json({ token });
    });
    clock.now = START + 14 * 60_000 + 45_000;
    await expect(made.get('hosts')).resolves.toEqual({ token: 'access-2' });
    expect(asked).toEqual(['refresh', 'hosts']);
  });

  it('refreshes and repeats once when the token is refused', async () => {
    const { client: made, asked } = client((path, token) => {
      if (path === 'refresh') return json(tokens(2));
      return token === 'access-1' ? refused('unauthenticated', 401) : json({ fine: true });
    });
    await expect(made.get('hosts')).resolves.toEqual({ fine: true });
    expect(asked).toEqual(['hosts', 'refresh', 'hosts']);
  });

  it('spends a refresh token once for requests that run together', async () => {
    const { client: made, asked } = client(async (path, token) => {
      if (path === 'refresh') return json(tokens(2));
      return token === 'access-1' ? refused('unauthenticated', 401) : json({ fine: true });
    });
    await Promise.all([made.get('hosts'), made.get('findings'), made.get('actions')]);
    expect(asked.filter((path) => path === 'refresh')).toHaveLength(1);
  });

  it('takes the token that another tab has refreshed', async () => {
    const { client: made, asked, keeps } = client((path, token) => {
      expect(path).toBe('hosts');
      return token === 'access-1' ? refused('unauthenticated', 401) : json({ token });
    });
    keeps.kept = tokens(9);
    await expect(made.get('hosts')).resolves.toEqual({ token: 'access-9' });
    expect(asked).toEqual(['hosts', 'hosts']);
  });

  it('ends the session when the refresh is refused', async () => {
    const { client: made, keeps, ends } = client((path) =>
      refused(path === 'refresh' ? 'refresh-reused' : 'unauthenticated', 401),
    );
    await expect(made.get('hosts')).rejects.toMatchObject({ code: 'refresh-reused' });
    expect(keeps.kept).toBeNull();
    expect(ends).toEqual(['because refresh-reused']);
  });

  it('keeps the session when the collector cannot be reached', async () => {
    const { client: made, keeps, clock } = client(() => Promise.reject(new TypeError('connection refused')));
    clock.now = START + 20 * 60_000;
    await expect(made.get('hosts')).rejects.toMatchObject({ code: 'unreachable' });
    expect(keeps.kept?.refresh_token).toBe('refresh-1');
  });

  it('forgets a session whose refresh token has expired', () => {
    const old = tokens(1, START - 24 * 3_600_000);
    const { client: made } = client(() => json({}), old);
    expect(made.session).toBeNull();
  });

  it('forgets the session on logout even when the collector is gone', async () => {
    const { client: made, keeps } = client(() => Promise.reject(new TypeError('connection refused')));
    await expect(made.logout()).rejects.toBeInstanceOf(ApiError);
    expect(keeps.kept).toBeNull();
  });

  it('says so when something else than the API answers', async () => {
    const { client: made } = client(() => new Response('<html>bad gateway</html>', { status: 502, statusText: 'Bad Gateway' }));
    await expect(made.get('hosts')).rejects.toMatchObject({ code: 'not-a-problem', status: 502 });
  });
});

describe('address', () => {
  it('leaves out what has no value and escapes the rest', () => {
    expect(address('metrics/range', { host: 'a b', name: 'x,y', to: undefined, from: '', limit: 0 })).toBe(
      '/api/v1/metrics/range?host=a+b&name=x%2Cy&limit=0',
    );
  });
});
