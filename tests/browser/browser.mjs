// Chromium, and what every page in it is held to.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../collector/web/package.json', import.meta.url));
const { chromium } = require('playwright-core');

export async function launch() {
  return chromium.launch({
    executablePath: process.env.FLEETMEND_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

/**
 * A page, and the faults it showed: exceptions, violations of the policy, and requests that leave the collector.
 * A refused login is part of the test, and Chromium writes it to the console as an error of loading.
 */
export async function open(browser, url, { width = 1280, height = 900, dark = false, state } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? 'dark' : 'light', storageState: state, ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) faults.push(`console: ${message.text()}`);
  });
  page.on('request', (request) => {
    const to = request.url();
    if (!to.startsWith(url) && !to.startsWith('data:')) faults.push(`request to elsewhere: ${to}`);
  });
  page.setDefaultTimeout(20_000);
  return { context, page, faults };
}

/** Waits until `read` answers something that `good` accepts; says the last answer when the time is over. */
export async function until(what, read, good, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  let last;
  while (Date.now() < end) {
    last = await read();
    if (good(last)) return last;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${what}: not within ${seconds} s; last seen ${JSON.stringify(last)}`);
}
