// Drives headless Chromium for the tests of the desks: one JSON command a line on stdin, one JSON answer a line on stdout.
// Each desk has a context of its own, which looks like a person's browser: nothing of its policy is bypassed.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../report/browser/", import.meta.url));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"];
flags.push("--disable-background-networking", "--disable-component-update", "--disable-sync");
flags.push("--host-resolver-rules=MAP evil.example 127.0.0.1");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
const pages = {};
const seen = { requests: [], console: [] };

const watched = async (name) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  page.on("console", (message) => { if (message.type() !== "log") seen.console.push(`${name}: ${message.text()}`); });
  page.on("pageerror", (error) => seen.console.push(`${name}: ${error}`));
  page.on("request", (request) => seen.requests.push(request.url().startsWith("data:") ? "data:" : request.url()));
  page.setDefaultTimeout(180000);
  pages[name] = page;
  return page;
};

const faults = async (page) => {
  const wide = await page.evaluate(() => {
    const limit = document.documentElement.clientWidth + 1;
    const out = (one) => !one.closest(".scroll, .skip, .hidden") && one.getBoundingClientRect().right > limit;
    return [...document.querySelectorAll("body *")].filter(out).map((one) => one.outerHTML.slice(0, 120));
  });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map((one) => ({ id: one.id, impact: one.impact, nodes: one.nodes.slice(0, 3).map((n) => n.html) }));
  return { overflow: wide, axe: told };
};

const commands = {
  async enter({ desk, link }) {
    const page = await watched(desk);
    await page.goto(link);
    await page.click("#enter");
    return new URL(page.url()).pathname.replace(/\/$/, "");
  },
  async plain({ desk, url }) { const answer = await (await watched(desk)).goto(url); return [answer.status(), await answer.text()]; },
  async goto({ desk, url }) { return (await pages[desk].goto(url)).status(); },
  async click({ desk, selector }) { await pages[desk].click(selector); await pages[desk].waitForLoadState(); },
  async fill({ desk, selector, value }) { await pages[desk].fill(selector, value); },
  async select({ desk, selector, value }) { await pages[desk].selectOption(selector, value); },
  async check({ desk, selector }) { await pages[desk].check(selector); },
  async file({ desk, selector, path }) { await pages[desk].setInputFiles(selector, path); },
  async drop({ desk, selector, name, content }) {
    const data = await pages[desk].evaluateHandle(([name, content]) => {
      const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], name));
      return data;
    }, [name, content]);
    await Promise.all([pages[desk].waitForEvent("load"), pages[desk].dispatchEvent(selector, "drop", { dataTransfer: data })]);
  },
  async text({ desk, selector }) { return pages[desk].locator(selector ?? "body").first().innerText(); },
  async wait({ desk, text, timeout }) { await pages[desk].getByText(text).first().waitFor({ timeout }); },
  async run({ desk, code }) { return pages[desk].evaluate(code); },
  async tab({ desk, count }) {
    const found = [];
    for (let press = 0; press < count; press += 1) {
      await pages[desk].keyboard.press("Tab");
      found.push(await pages[desk].evaluate(() => {
        const one = document.activeElement;
        const style = getComputedStyle(one);
        return [one.id || one.getAttribute("href") || one.tagName, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
      }));
    }
    return found;
  },
  async look({ desk, shots }) {
    const page = pages[desk], found = [];
    for (const width of [390, 1280]) {
      for (const scheme of ["light", "dark"]) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme: scheme });
        await page.screenshot({ path: `${shots}-${width}-${scheme}.png`, fullPage: true });
        const { overflow, axe: told } = await faults(page);
        found.push(...overflow.map((html) => ({ at: `${width} ${scheme}`, id: "overflow", impact: "serious", nodes: [html] })));
        found.push(...told.map((one) => ({ at: `${width} ${scheme}`, ...one })));
      }
    }
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.emulateMedia({ colorScheme: "light" });
    return found;
  },
  async picture({ desk, path, height }) {
    await pages[desk].setViewportSize({ width: 1280, height });
    await pages[desk].screenshot({ path });
  },
  async seen() { return seen; },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...given } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: (await commands[op](given)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
