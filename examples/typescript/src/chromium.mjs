// Serves a page on an origin of its own, opens it in a headless Chromium and walks through the service from there.
//
// Reads APIKEYS_ENDPOINT, APIKEYS_KEY, and PAGE_PORT: the service must allow the origin http://127.0.0.1:PAGE_PORT.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { chromium } from "playwright-core";

const { APIKEYS_ENDPOINT: endpoint, APIKEYS_KEY: key, PAGE_PORT: port, CHROMIUM: executablePath = "/usr/bin/chromium" } = process.env;
const script = await readFile(new URL("../dist/browser.js", import.meta.url));

const server = createServer((request, response) => {
  if (request.url === "/browser.js") {
    response.setHeader("content-type", "text/javascript").end(script);
  } else {
    response.setHeader("content-type", "text/html").end('<!doctype html><script type="module" src="/browser.js"></script>');
  }
});
await new Promise((listening) => server.listen(Number(port), "127.0.0.1", listening));

const browser = await chromium.launch({
  executablePath,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.waitForFunction(() => "walkAll" in window);
  for (const line of await page.evaluate(([endpoint, key]) => window.walkAll(endpoint, key), [endpoint, key])) {
    console.log(`Chromium: ${line}`);
  }
} finally {
  await browser.close();
  server.close();
}
