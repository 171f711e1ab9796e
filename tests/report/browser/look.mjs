// Opens a page in headless Chromium and says, as JSON, what is wrong with it: sections, console, requests, axe, overflow.
// node look.mjs URL OUT_FOLDER [WAIT_FOR_TEXT]
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, out, text] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"];
flags.push("--disable-background-networking", "--disable-component-update", "--disable-sync");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
const found = { console: [], requests: [], axe: [], overflow: [], sections: [], shots: [] };

const looked = async (width, scheme) => {
  // bypassCSP is for axe alone, which is put into the page below; the console is read in a context without it.
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, bypassCSP: true });
  const page = await context.newPage();
  await page.goto(url);
  if (text) await page.getByText(text).first().waitFor({ timeout: 60000 });
  const wide = await page.evaluate(() => {
    const limit = document.documentElement.clientWidth + 1;
    const inside = (one) => one.closest(".scroll") || one.closest(".skip");
    const all = [...document.querySelectorAll("body *")].filter((one) => !inside(one));
    const cut = [...document.querySelectorAll(".scroll:has(table.heat)")].filter((one) => one.scrollWidth > one.clientWidth + 1);
    const past = all.filter((one) => one.getBoundingClientRect().right > limit);
    return [...past, ...cut].map((one) => one.outerHTML.slice(0, 120));
  });
  found.overflow.push(...wide.map((one) => `${width} ${scheme}: ${one}`));
  const shot = join(out, `report-${width}-${scheme}.png`);
  await page.screenshot({ path: shot, fullPage: true });
  found.shots.push(shot);
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  await page.evaluate(axe);
  const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const one of result.violations) {
    found.axe.push({ at: `${width} ${scheme}`, id: one.id, impact: one.impact, nodes: one.nodes.slice(0, 3).map((n) => n.html) });
  }
  await context.close();
};

const plain = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const page = await plain.newPage();
page.on("console", (message) => found.console.push(`${message.type()}: ${message.text()}`));
page.on("pageerror", (error) => found.console.push(String(error)));
page.on("request", (request) => found.requests.push(request.url().startsWith("data:") ? "data:" : request.url()));
await page.goto(url);
if (text) await page.getByText(text).first().waitFor({ timeout: 60000 });
await page.waitForTimeout(500);
found.ids = await page.evaluate(() => [...document.querySelectorAll("section, .empty b")].map((one) => one.id));
found.sections = await page.evaluate(() => [...document.querySelectorAll("section")].map((one) => ({
  id: one.id, title: one.querySelector("h2").textContent, length: one.textContent.trim().length,
  figures: one.querySelectorAll("figure").length, images: one.querySelectorAll("img").length,
})));
found.title = await page.title();
found.used = await page.evaluate(() => Math.min(...[...document.querySelectorAll("section, .cards")].map((one) => one.clientWidth)) / innerWidth);
await page.screenshot({ path: join(out, "top.png"), clip: { x: 0, y: 0, width: 1280, height: 1120 }, fullPage: true });  // as far as gains and pools
await page.keyboard.press("Tab");
found.first_focus = await page.evaluate(() => document.activeElement.getAttribute("href"));
await plain.close();
for (const width of [390, 1280]) for (const scheme of ["light", "dark"]) await looked(width, scheme);
await browser.close();
console.log(JSON.stringify(found));
