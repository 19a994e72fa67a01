/**
 * The one way to the API. Holds the tokens, refreshes them shortly before and at the latest when the API refuses
 * one, and turns whatever goes wrong into an `ApiError`.
 *
 * A refresh token may be used once: using it again ends the session. So at most one refresh runs at a time in this
 * tab, and a lock of the browser keeps other tabs from using the same token.
 */
import type { ProblemBody, Role, Tokens } from './types';

export interface Session {
  access_token: string;
  expires_at: string;
  refresh_token: string;
  refresh_expires_at: string;
  user: string;
  role: Role;
}

/** Where the session is kept between visits and shared with other tabs. */
export interface Keeper {
  load(): Session | null;
  save(session: Session | null): void;
  /** Runs `work` while nobody else does, in any tab. */
  alone<T>(work: () => Promise<T>): Promise<T>;
}

export class ApiError extends Error {
  readonly code: string;
  readonly status: number;
  readonly instance: string | null;
  readonly faults: { field: string; reason: string }[];

  constructor(problem: Partial<ProblemBody> & { code: string; detail: string }) {
    super(problem.detail);
    this.name = 'ApiError';
    this.code = problem.code;
    this.status = problem.status ?? 0;
    this.instance = problem.instance ?? null;
    this.faults = problem.faults ?? [];
  }
}

export type Query = Record<string, string | number | null | undefined>;

export interface Options {
  query?: Query;
  body?: unknown;
  signal?: AbortSignal;
  method?: 'GET' | 'POST' | 'DELETE';
}

/** A token that expires sooner than this is refreshed before it is used. */
const REFRESH_AHEAD_MS = 30_000;
const TIMEOUT_MS = 30_000;

export class Client {
  #session: Session | null;
  #refreshing: Promise<void> | null = null;

  constructor(
    private readonly keeper: Keeper,
    private readonly fetcher: typeof fetch = (input, init) => fetch(input, init),
    private readonly now: () => number = Date.now,
    private readonly onEnd: (why: string) => void = () => undefined,
  ) {
    this.#session = keeper.load();
    if (this.#session && Date.parse(this.#session.refresh_expires_at) <= now()) this.#set(null);
  }

  get session(): Session | null {
    return this.#session;
  }

  async login(user: string, password: string): Promise<Session> {
    const tokens = await this.#json<Tokens>('login', { method: 'POST', body: { user, password } }, null);
    this.#set(tokens);
    return tokens;
  }

  async logout(): Promise<void> {
    try {
      await this.request('logout', { method: 'POST' });
    } finally {
      this.#set(null);
    }
  }

  get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    return this.request<T>(path, signal ? { query, signal } : { query });
  }

  post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
    return this.request<T>(path, signal ? { method: 'POST', body, signal } : { method: 'POST', body });
  }

  async request<T>(path: string, options: Options = {}): Promise<T> {
    const used = await this.#token();
    try {
      return await this.#json<T>(path, options, used);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 'unauthenticated') throw error;
    }
    await this.#refresh(used);
    return this.#json<T>(path, options, await this.#token());
  }

  async #token(): Promise<string> {
    if (!this.#session) throw new ApiError({ code: 'unauthenticated', status: 401, detail: 'You are not logged in.' });
    if (Date.parse(this.#session.expires_at) - this.now() < REFRESH_AHEAD_MS) {
      await this.#refresh(this.#session.access_token);
    }
    const token = this.#session?.access_token;
    if (!token) throw new ApiError({ code: 'unauthenticated', status: 401, detail: 'The session has ended.' });
    return token;
  }

  /** Replaces the access token `used`, unless that was done meanwhile, here or in another tab. */
  #refresh(used: string): Promise<void> {
    this.#refreshing ??= this.keeper
      .alone(async () => {
        const kept = this.keeper.load();
        if (kept && kept.access_token !== used) {
          this.#session = kept;
          return;
        }
        const token = this.#session?.refresh_token;
        if (!token) return;
        try {
          this.#set(await this.#json<Tokens>('refresh', { method: 'POST', body: { refresh_token: token } }, null));
        } catch (error) {
          // Only the API's word ends a session: a lost connection does not.
          if (error instanceof ApiError && error.status === 401) {
            this.#set(null);
            this.onEnd(error.message);
          }
          throw error;
        }
      })
      .finally(() => {
        this.#refreshing = null;
      });
    return this.#refreshing;
  }

  #set(session: Session | null): void {
    this.#session = session;
    this.keeper.save(session);
  }

  async #json<T>(path: string, options: Options, token: string | null): Promise<T> {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (token) headers['authorization'] = `Bearer ${token}`;
    if (options.body !== undefined) headers['content-type'] = 'application/json';
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const init: RequestInit = {
      method: options.method ?? 'GET',
      headers,
      signal: options.signal ? AbortSignal.any([options.signal, timeout]) : timeout,
    };
    if (options.body !== undefined) init.body = JSON.stringify(options.body);
    let response: Response;
    try {
      response = await this.fetcher(address(path, options.query), init);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      const detail = timeout.aborted
        ? `The collector did not answer within ${TIMEOUT_MS / 1000} s.`
        : 'The collector cannot be reached. Is it running, and is the network up?';
      throw new ApiError({ code: 'unreachable', detail });
    }
    if (response.ok) return response.status === 204 ? (undefined as T) : ((await response.json()) as T);
    throw await problem(response);
  }
}

/** The address of a route with its parameters; those without a value are left out. */
export function address(path: string, query: Query = {}): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '') parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return `/api/v1/${path}${text ? `?${text}` : ''}`;
}

async function problem(response: Response): Promise<ApiError> {
  try {
    const body = (await response.json()) as ProblemBody;
    if (typeof body.code === 'string' && typeof body.detail === 'string') {
      return new ApiError({ ...body, status: response.status });
    }
  } catch {
    // Not JSON: something between us and the collector answered.
  }
  return new ApiError({
    code: 'not-a-problem',
    status: response.status,
    detail: `The answer was ${response.status} ${response.statusText}, and not from the collector's API.`,
  });
}
