/** Who is logged in, and the client that speaks for them. */
import { Client, type Session } from './api/client';
import { browserKeeper } from './api/keeper';

class Account {
  current = $state.raw<Session | null>(null);
  /** Why the last session ended, when it did not end by logging out. */
  ended = $state('');
  readonly client: Client;

  constructor() {
    this.client = new Client(browserKeeper(), undefined, undefined, (why) => {
      this.ended = why;
      this.current = null;
    });
    this.current = this.client.session;
  }

  async login(user: string, password: string): Promise<void> {
    this.current = await this.client.login(user, password);
    this.ended = '';
  }

  async logout(): Promise<void> {
    await this.client.logout().catch(() => undefined);
    this.current = null;
  }
}

export const account = new Account();
export const api = account.client;
