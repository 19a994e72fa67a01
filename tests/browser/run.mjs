// The dashboard in a real Chromium: login, fleet, a live chart that moves, a finding with its explanation, an action
// with its evidence. Against a mock of the API, or against a real instance when FLEETMEND_E2E_URL, _USER and
// _PASSWORD are set. Screenshots go to FLEETMEND_E2E_SCREENSHOTS, or to a temporary folder that is named at the end.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { launch, open, until } from './browser.mjs';
import { faint, nameless } from './contrast.mjs';
import * as facts from './facts.mjs';
import { PASSWORD, start, USER } from './mock.mjs';

const real = process.env.FLEETMEND_E2E_URL;
const mock = real ? null : await start();
const url = (real ?? mock.url).replace(/\/$/, '');
const user = real ? process.env.FLEETMEND_E2E_USER : USER;
const password = real ? process.env.FLEETMEND_E2E_PASSWORD : PASSWORD;
const folder = process.env.FLEETMEND_E2E_SCREENSHOTS ?? mkdtempSync(join(tmpdir(), 'fleetmend-browser-'));
mkdirSync(folder, { recursive: true });

const browser = await launch();
const { context, page, faults } = await open(browser, url);
const results = { passed: 0, failed: 0, not_run: 0 };

class NotRun extends Error {}

async function check(name, body) {
  const began = Date.now();
  try {
    await body();
    assert.deepEqual(faults.splice(0), [], 'the page showed faults');
    results.passed += 1;
    console.log(`ok       ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    if (error instanceof NotRun) {
      results.not_run += 1;
      console.log(`NOT RUN  ${name}: ${error.message}`);
      return;
    }
    results.failed += 1;
    console.log(`FAILED   ${name}: ${error.stack ?? error}`);
    await page.screenshot({ path: join(folder, `failed-${results.failed}.png`) }).catch(() => undefined);
  }
}

const heading = (text) => page.getByRole('heading', { level: 1, name: text });

/** Follows the first link of a table's rows; null when there is no row. */
async function first(path) {
  await page.goto(`${url}${path}`);
  await page.locator('section.panel').first().waitFor();
  const link = page.locator('td.title a').first();
  if ((await link.count()) === 0) return null;
  const text = await link.innerText();
  await link.click();
  return text;
}

await check('refuses a wrong password and says so', async () => {
  await page.goto(url);
  await page.getByLabel('User').fill(user);
  await page.getByLabel('Password').fill('not the password');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByText('User or password is wrong.').waitFor();
  assert.equal(await page.getByLabel('Password').inputValue(), '', 'the wrong password is cleared');
});

await check('logs in with the keyboard alone', async () => {
  await page.getByLabel('User').focus();
  await page.getByLabel('User').fill(user);
  await page.keyboard.press('Tab');
  await page.keyboard.type(password);
  await page.keyboard.press('Enter');
  await heading('Fleet').waitFor();
});

let hostPath;
await check('shows the fleet', async () => {
  const row = page.locator('tbody tr').first();
  await row.waitFor();
  const link = mock ? page.getByRole('link', { name: 'shop-web-1' }) : page.locator('tbody tr', { hasText: '●' }).locator('td.title a').first();
  hostPath = await link.getAttribute('href');
  const text = await page.locator('tbody').innerText();
  assert.match(text, /●\s*connected/);
  assert.match(text, /REAL/);
  if (!mock) return;
  assert.equal(await page.locator('tbody tr').count(), 4);
  assert.match(text, /▲▲\s*1 critical/, 'severity is a mark and a word, not only a colour');
  assert.match(text, /not connected/);
  assert.match(text, /never connected/);
  assert.match(text, /unknown/, 'a host without samples is unknown, not 0 %');
  assert.match(await page.locator('tbody tr').last().innerText(), /revoked/);
});

await check('draws a live chart that moves', async () => {
  await page.goto(url + hostPath);
  const plot = page.getByRole('img', { name: /^CPU,/ });
  await plot.waitFor({ timeout: 30_000 });
  const read = () => plot.evaluate((node) => {
    const canvas = node.querySelector('canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let painted = 0;
    let hash = 0;
    for (let at = 0; at < pixels.length; at += 4) {
      if (pixels[at + 3] > 0) painted += 1;
      hash = (hash * 31 + pixels[at] + pixels[at + 1] * 7 + pixels[at + 3] * 13) | 0;
    }
    const label = node.getAttribute('aria-label');
    return { label, painted, hash, until: /up to (\S+):/.exec(label)?.[1], values: label.replace(/^[^:]*:\d\d:\d\d:/, '') };
  });
  const before = await until('the chart has values', read, (chart) => chart.painted > 500 && /user \d/.test(chart.label), 30);
  const after = await until('time, picture and values moved on', read, (chart) => chart.until !== before.until && chart.hash !== before.hash && chart.values !== before.values, 30);
  console.log(`           ${before.label}\n           ${after.label}`);
  if (mock) {
    assert.match(after.label, /unknown for/, 'lost samples are called unknown');
    assert.match(await page.locator('main').innerText(), /at least 1840 rows are missing/);
  }
});

await check('stops and goes on, and changes the range', async () => {
  await page.getByRole('button', { name: 'Pause' }).click();
  const plot = page.getByRole('img', { name: /^CPU,/ });
  const still = await plot.getAttribute('aria-label');
  const asked = mock?.seen.range;
  await page.getByText('Paused').waitFor();
  await page.waitForTimeout(1500);
  if (mock) assert.ok(mock.seen.range <= asked + 3, 'nothing is asked for while paused');
  await page.getByRole('button', { name: 'Go on' }).click();
  await until('the chart goes on', () => plot.getAttribute('aria-label'), (label) => label !== still);
  await page.getByRole('button', { name: '1 h', exact: true }).click();
  await page.getByRole('img', { name: /^CPU, 1.h/ }).waitFor();
  assert.match(page.url(), /range=1h/);
});

await check('shows probes with reason and hint, and sorts processes', async () => {
  await page.getByRole('link', { name: 'Probes', exact: true }).click();
  await page.getByText('REAL').first().waitFor();
  if (mock) {
    await page.getByText('To do: start dbus, or set units.enabled = false').waitFor();
    await page.getByText(/No such file or directory/).waitFor();
    const accounts = page.locator('.panel > header').filter({ hasText: 'What became of every kernel event' });
    assert.notEqual(await accounts.evaluate((one) => getComputedStyle(one).paddingLeft), '0px');
    const file = page.getByRole('row').filter({ hasText: /4\s220\s118/ });
    await file.getByText('410 ns').waitFor();
    assert.equal(await file.getByTitle('31 ring full').innerText(), '31');
  }
  await page.getByRole('link', { name: 'Processes', exact: true }).click();
  const column = page.getByRole('columnheader', { name: 'PID' });
  await column.getByRole('button').click();
  assert.equal(await column.getAttribute('aria-sort'), 'descending');
  const ids = (await page.locator('tbody tr td:nth-child(2)').allInnerTexts()).map(Number);
  assert.ok(ids.length > 0);
  assert.deepEqual(ids, [...ids].sort((a, b) => b - a));
});

await check('shows a finding with its explanation', async () => {
  const title = mock ? 'this host behaves unlike itself' : await first('/findings');
  if (title === null) throw new NotRun('this instance has no finding yet');
  if (mock) {
    await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Findings' }).click();
    await page.getByRole('link', { name: title }).click();
  }
  await heading(title).waitFor();
  const why = page.getByRole('region', { name: /^Why/ });
  await why.waitFor();
  assert.ok((await why.locator('li').count()) > 0, 'it has factors');
  assert.match(await why.innerText(), /value[\s\S]*(expected|pattern)/);
  await page.getByRole('region', { name: /^Evidence/ }).waitFor();
  if (!mock) return;
  assert.match(await why.innerText(), /system\.linux\.context_switches[\s\S]*46 % of it/);
  await page.getByText('would act').waitFor();
  await page.goto(`${url}/findings/${facts.BUSY}/${facts.SIGMA}`);
  await page.getByRole('link', { name: /T1059\.004/ }).waitFor();
  await page.getByText('bash -c bash -i >& /dev/tcp/').waitFor();
});

await check('filters findings', async () => {
  await page.goto(`${url}/findings`);
  await page.getByLabel('Severity').selectOption('critical');
  await until('only critical ones', () => page.locator('tbody tr td:first-child').allInnerTexts(), (all) => all.every((text) => /critical/.test(text)));
  assert.match(page.url(), /severity=critical/);
  if (mock) assert.equal(await page.locator('tbody tr').count(), 1);
});

await check('shows an action with its evidence before and after', async () => {
  const title = await first('/actions');
  if (title === null) throw new NotRun('this instance has no action yet');
  const before = page.getByRole('region', { name: 'Measured before' });
  const after = page.getByRole('region', { name: 'Measured after' });
  await before.waitFor();
  assert.ok((await page.getByRole('region', { name: /^Steps/ }).locator('ol > li').count()) > 0);
  if (!mock) return;
  assert.match(await before.innerText(), /used pct\s*96\.4 %/);
  assert.match(await after.innerText(), /used pct\s*61\.2 %/);
  const boxes = [await before.boundingBox(), await after.boundingBox()];
  assert.equal(boxes[0].y, boxes[1].y, 'they stand side by side');
  assert.equal(await page.getByRole('region', { name: /^Steps/ }).locator('ol > li').count(), 6);
});

await check('shows alerts, sites and an answer to SQL', async () => {
  const main = page.getByRole('navigation', { name: 'Main' });
  await main.getByRole('link', { name: 'Alerts' }).click();
  await heading('Alerts').waitFor();
  if (mock) await page.getByText('the receiver answered 503 Service Unavailable').waitFor();
  await main.getByRole('link', { name: 'Sites' }).click();
  await heading('Sites').waitFor();
  if (mock) await page.getByText('Unknown is not down').waitFor();
  await main.getByRole('link', { name: 'SQL' }).click();
  const box = page.getByRole('textbox');
  await box.fill('slect 1');
  await box.press('Control+Enter');
  await page.getByText('The query cannot be run.').waitFor();
  await box.fill("select comm, count(*) as execs from process_events group by 1 order by 2 desc limit 5");
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await page.getByRole('region', { name: 'Result' }).locator('td').first().waitFor();
});

await check('shows where the focus is, and reaches the content by keyboard', async () => {
  await page.goto(url);
  await page.locator('tbody tr').first().waitFor();
  await page.keyboard.press('Tab');
  const skip = page.getByRole('link', { name: 'Skip to the content' });
  assert.ok(await skip.evaluate((node) => node === document.activeElement && node.getBoundingClientRect().left >= 0), 'the first stop skips the bar');
  await page.keyboard.press('Tab');
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, 'solid');
});

await check('changes the colours, and keeps the choice', async () => {
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await back();
  await page.getByLabel('Colours').selectOption('dark');
  await until('the page is dark', back, (colour) => colour !== light);
  const dark = await back();
  await page.reload();
  await page.locator('tbody tr').first().waitFor();
  assert.equal(await back(), dark);
  await page.getByLabel('Colours').selectOption('system');
  assert.equal(await back(), light);
});

await check('says when the collector cannot be reached, keeps the last answer, and recovers', async () => {
  await context.setOffline(true);
  await page.getByText('The collector cannot be reached').waitFor();
  await page.getByText('Not up to date').waitFor();
  assert.ok((await page.locator('tbody tr').count()) > 0, 'the last answer is still there');
  await context.setOffline(false);
  await until('the fault is gone', () => page.getByText('The collector cannot be reached').count(), (count) => count === 0, 40);
});

await check('keeps pages within their width, readable and named, at 1280 and 390 pixels, in light and in dark', async () => {
  const paths = { fleet: '/', host: hostPath, processes: `${hostPath}?tab=processes`, probes: `${hostPath}?tab=probes`, units: `${hostPath}?tab=units`, models: `${hostPath}?tab=models`, findings: '/findings', actions: '/actions', alerts: '/alerts', sites: '/sites', sql: '/sql' };
  if (mock) {
    Object.assign(paths, { 'finding-anomaly': `/findings/${facts.BUSY}/${facts.ANOMALY}`, 'finding-sigma': `/findings/${facts.BUSY}/${facts.SIGMA}`, action: `/actions/${facts.BUSY}/${facts.HEALED}`, 'host-empty': `/hosts/${facts.GONE}`, missing: '/hosts/nobody' });
  }
  const state = await context.storageState();
  await context.close();
  const session = state;
  for (const width of [1280, 390]) {
    for (const dark of [false, true]) {
      const name = `${width}-${dark ? 'dark' : 'light'}`;
      const other = await open(browser, url, { width, height: width === 390 ? 844 : 900, dark, state: session });
      for (const [what, path] of Object.entries(paths)) {
        await other.page.goto(url + path);
        await other.page.locator('main').waitFor();
        await until(`${what} has loaded`, () => other.page.getByText(/^Loading /).count(), (count) => count === 0);
        await other.page.screenshot({ path: join(folder, `${what}-${name}.png`), fullPage: !what.startsWith('processes') });
        const [wide, shown] = await other.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.deepEqual(await other.page.evaluate(faint), [], `${what} at ${name} has text that is too faint`);
        assert.deepEqual(await other.page.evaluate(nameless), [], `${what} at ${name} has controls without a name`);
        assert.ok(wide <= shown, `${what} at ${name} is ${wide} pixels wide`);
      }
      assert.deepEqual(other.faults, [], `faults at ${name}`);
      // The refresh token may have been spent in this context: the next goes on from where this one is.
      Object.assign(session, await other.context.storageState());
      await other.context.close();
    }
  }
  const last = await open(browser, url, { width: 1280, dark: true, state: undefined });
  await last.page.goto(url);
  await last.page.getByLabel('User').waitFor();
  await last.page.screenshot({ path: join(folder, 'login-1280-dark.png') });
  await last.context.close();
});

if (mock) {
  await check('refreshed its token on the way, and spent none twice', async () => {
    assert.ok(mock.seen.refresh >= 1, `refreshed ${mock.seen.refresh} times`);
    assert.equal(mock.seen.reused, 0);
  });
}

await browser.close();
await mock?.stop();
console.log(`browser: ${results.passed} passed, ${results.failed} failed, ${results.not_run} not run; screenshots in ${folder}`);
process.exitCode = results.failed === 0 ? 0 : 1;
