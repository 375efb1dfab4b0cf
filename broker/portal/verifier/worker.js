// A worker that verifies one history: it fetches the file, the policy and the verifier, and answers with a report, the file it is
// about, or the cause why there is none. It ends with its page, and asks nobody but the server that it came from.
import "./wasm_exec.js";

// proof.MaxHistory: a larger file is none.
const maxHistory = 64 << 20;

class Stop extends Error {
  constructor(cause) {
    super(cause);
    this.cause = cause;
  }
}

async function get(url, cache) {
  let response;
  try {
    response = await fetch(url, { redirect: "manual", cache });
  } catch {
    throw new Stop("offline");
  }
  // Whoever isn't signed in any more is sent elsewhere.
  if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) throw new Stop("session");
  if (!response.ok) throw new Stop("server");
  return response;
}

// read stops at the limit, whatever the server sends. It tells how many bytes have come, and of how many; 0: nobody knows.
async function read(response, tell = () => {}) {
  const parts = [];
  let size = 0;
  const { headers } = response;
  const of = Number(headers.get("Regard-Size") ?? (headers.has("Content-Encoding") ? 0 : headers.get("Content-Length"))) || 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > maxHistory) {
        await reader.cancel();
        throw new Stop("format");
      }
      parts.push(value);
      tell(size, of >= size ? of : 0);
    }
  } catch (e) {
    throw e instanceof Stop ? e : new Stop("offline");
  }
  const file = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

async function start(url) {
  const go = new Go();
  const response = await get(url, "default");
  let instance;
  try {
    ({ instance } = await WebAssembly.instantiateStreaming(response, go.importObject));
  } catch {
    throw new Stop("verifier");
  }
  go.run(instance); // sets regardVerify, and waits
}

// readNames takes the names of a page only if they are those of their address, which others can compare.
async function readNames(url) {
  const file = await get(url, "default").then((r) => read(r));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", file));
  const hex = [...digest].map((b) => b.toString(16).padStart(2, "0")).join("");
  if (!new URL(url).pathname.endsWith(`/${hex}.txt`)) throw new Stop("server");
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(file);
}

async function verify({ bundle, policy, names, page, options }) {
  const text = (url) => get(url, "default").then((r) => r.text());
  let last;
  let waits; // told no faster than one reads, and the last of it always
  const tell = (got, of) => {
    last = { got, of };
    waits ??= setTimeout(() => {
      waits = undefined;
      postMessage(last);
    }, 100);
  };
  const [file, keys, words] = await Promise.all([get(bundle, "no-store").then((r) => read(r, tell)), text(policy), readNames(names), start(new URL("verifier.wasm", import.meta.url))]);
  page.names = words;
  clearTimeout(waits);
  postMessage({ began: true });
  let percent = -1;
  const out = regardVerify(file, keys, page, options, (done, of) => {
    const now = Math.floor((100 * done) / of);
    if (now !== percent) postMessage({ done, of });
    percent = now;
  });
  if (typeof out?.report !== "object" || out.report === null) throw new Stop("verifier");
  postMessage({ ...out, policy: keys, page, file }, [file.buffer]);
}

onmessage = ({ data }) => {
  verify(data).catch((e) => postMessage({ cause: e instanceof Stop ? e.cause : "verifier" }));
};
