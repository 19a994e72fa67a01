// Contrast of every text on a page by WCAG 2.2, level AA. Runs in the page.
export function faint() {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const light = ({ r, g, b }) => {
    const part = (value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return { r: 255, g: 255, b: 255 };
  };
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node || node.closest('noscript, option, .visually-hidden, :disabled')) continue;
    const style = getComputedStyle(node);
    const [one, other] = [light(parse(style.color)), light(back(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.set(`${style.color} on ${JSON.stringify(back(node))}`, `${text.data.trim().slice(0, 40)} (${ratio.toFixed(2)})`);
  }
  return [...found].map(([colours, text]) => `${text}: ${colours}`);
}

/** Controls that a screen reader cannot name. Runs in the page. */
export function nameless() {
  return [...document.querySelectorAll('button, a[href], input, select, textarea, [role=img], [role=meter]')]
    .filter((node) => {
      const label = node.getAttribute('aria-label') ?? node.labels?.[0]?.textContent ?? node.textContent ?? '';
      return label.trim() === '';
    })
    .map((node) => node.outerHTML.slice(0, 120));
}
