/** The session in the browser's storage, where all tabs find it. */
import type { Keeper, Session } from './client';

const KEY = 'fleetmend.session';

export function browserKeeper(): Keeper {
  let memory: Session | null = null;
  return {
    load() {
      try {
        const text = localStorage.getItem(KEY);
        return text ? (JSON.parse(text) as Session) : null;
      } catch {
        return memory;
      }
    },
    save(session) {
      memory = session;
      try {
        if (session) localStorage.setItem(KEY, JSON.stringify(session));
        else localStorage.removeItem(KEY);
      } catch {
        // Storage is forbidden: the session lasts as long as this tab.
      }
    },
    alone(work) {
      // Locks exist in secure contexts only, which loopback and TLS are.
      if (!('locks' in navigator)) return work();
      return navigator.locks.request('fleetmend.refresh', work) as Promise<Awaited<ReturnType<typeof work>>>;
    },
  };
}
