/** Light or dark: the system's preference until somebody chooses. */
export type Choice = 'system' | 'light' | 'dark';

const KEY = 'fleetmend.theme';
const dark = matchMedia('(prefers-color-scheme: dark)');

class Theme {
  choice = $state<Choice>(stored());
  systemDark = $state(dark.matches);
  isDark = $derived(this.choice === 'system' ? this.systemDark : this.choice === 'dark');

  constructor() {
    dark.addEventListener('change', () => (this.systemDark = dark.matches));
  }

  choose(choice: Choice): void {
    this.choice = choice;
    if (choice === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = choice;
    try {
      if (choice === 'system') localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, choice);
    } catch {
      // Storage is forbidden: the choice lasts as long as this page.
    }
  }
}

function stored(): Choice {
  try {
    const value = localStorage.getItem(KEY);
    return value === 'light' || value === 'dark' ? value : 'system';
  } catch {
    return 'system';
  }
}

export const theme = new Theme();
