/** A list in pages: the first is asked for again and again, older ones once, when somebody wants them. */
import type { Query } from './api/client';
import type { ApiError } from './api/client';
import type { Page } from './api/types';
import { Poll, problemOf } from './poll.svelte';
import { api } from './session.svelte';

export class List<T> {
  readonly first = new Poll<Page<T>>();
  older = $state.raw<T[]>([]);
  next = $state.raw<string | null | undefined>(undefined);
  busy = $state(false);
  error = $state.raw<ApiError | null>(null);
  #query: Query = {};
  #path = '';

  start(path: string, query: Query, every_ms: number): () => void {
    this.#path = path;
    this.#query = query;
    this.older = [];
    this.next = undefined;
    this.error = null;
    return this.first.start((signal) => api.get<Page<T>>(path, query, signal), every_ms);
  }

  /** The first page and what was asked for after it; an item that moved up stands once. */
  all(key: (item: T) => string): T[] {
    const items = new Map<string, T>();
    for (const item of [...(this.first.data?.items ?? []), ...this.older]) {
      if (!items.has(key(item))) items.set(key(item), item);
    }
    return [...items.values()];
  }

  get more(): boolean {
    return (this.next === undefined ? (this.first.data?.next_cursor ?? null) : this.next) !== null;
  }

  async load(): Promise<void> {
    const cursor = this.next === undefined ? this.first.data?.next_cursor : this.next;
    if (!cursor || this.busy) return;
    this.busy = true;
    const query = this.#query;
    try {
      const page = await api.get<Page<T>>(this.#path, { ...query, cursor });
      if (query !== this.#query) return;
      this.older = [...this.older, ...page.items];
      this.next = page.next_cursor;
      this.error = null;
    } catch (error) {
      this.error = problemOf(error);
    } finally {
      this.busy = false;
    }
  }
}
