/** Names of hosts by id, for lists that only have ids. Asked for once a minute while a page shows them. */
import type { Host, Items } from './api/types';
import { api } from './session.svelte';

class Names {
  #hosts = $state.raw(new Map<string, string>());
  #asked = 0;

  /** Call from an effect. */
  load(): void {
    if (Date.now() - this.#asked < 60_000) return;
    this.#asked = Date.now();
    api
      .get<Items<Host>>('hosts')
      .then(({ items }) => (this.#hosts = new Map(items.map((host) => [host.host_id, host.hostname ?? host.host_id]))))
      .catch(() => (this.#asked = 0));
  }

  of(id: string): string {
    return this.#hosts.get(id) ?? id;
  }

  get all(): [string, string][] {
    return [...this.#hosts].sort((a, b) => a[1].localeCompare(b[1]));
  }
}

export const names = new Names();
