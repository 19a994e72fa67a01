/**
 * Something that is asked for again and again. Keeps the last answer while a newer one fails, so that an outage shows
 * old data that is marked as such, and not an empty page. Does not ask while nobody looks.
 */
import { ApiError } from './api/client';

/** After a failure it asks less and less often, up to this. */
const BACKOFF_MS_MAX = 30_000;

export class Poll<T> {
  data = $state.raw<T | null>(null);
  error = $state.raw<ApiError | null>(null);
  loading = $state(true);

  /** Asks now and every `every_ms`; returns what ends it. A new start forgets what was there when `fresh`. */
  start(ask: (signal: AbortSignal) => Promise<T>, every_ms: number, fresh = true): () => void {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let failures = 0;
    let busy = false;
    if (fresh) this.data = null;
    this.error = null;
    this.loading = true;
    const next = (): void => {
      const wait = failures === 0 ? every_ms : Math.min(BACKOFF_MS_MAX, Math.max(every_ms, 1000 * 2 ** failures));
      timer = setTimeout(() => void turn(), wait);
    };
    const turn = async (): Promise<void> => {
      if (busy) return;
      clearTimeout(timer);
      if (document.hidden && this.data !== null) return;
      busy = true;
      try {
        const data = await ask(ended.signal);
        if (ended.signal.aborted) return;
        this.data = data;
        this.error = null;
        failures = 0;
      } catch (error) {
        if (ended.signal.aborted) return;
        failures += 1;
        this.error = problemOf(error);
      } finally {
        busy = false;
        if (!ended.signal.aborted) {
          this.loading = false;
          next();
        }
      }
    };
    const shown = (): void => {
      if (!document.hidden) void turn();
    };
    document.addEventListener('visibilitychange', shown);
    void turn();
    return () => {
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', shown);
    };
  }
}

export function problemOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError({ code: 'fault', detail: error instanceof Error ? error.message : String(error) });
}
