// The walk in Node. Reads APIKEYS_ENDPOINT (http://host:port) and APIKEYS_KEY (a key that may manage API keys).
import { walkAll } from "./walk.js";

const { APIKEYS_ENDPOINT: endpoint, APIKEYS_KEY: key } = process.env;
if (!endpoint || !key) {
  throw new Error("APIKEYS_ENDPOINT and APIKEYS_KEY are needed");
}
for (const line of await walkAll(endpoint, key)) {
  console.log(`Node: ${line}`);
}
