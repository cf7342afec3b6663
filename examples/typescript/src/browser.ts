// The walk in a browser: a page calls `walkAll` from another origin than the service's.
import { walkAll } from "./walk.js";

declare global {
  interface Window {
    walkAll: typeof walkAll;
  }
}

window.walkAll = walkAll;
