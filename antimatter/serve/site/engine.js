"use strict";
// The engine of a page without a server: llama.cpp as WebAssembly, in the visitor's browser.
//
// It does what `antimatter serve` does behind GET /v1/models and POST /v1/chat/completions, so the
// page is the same. prompt.py, stop_texts.py and chat/template.py have the same rules in Python;
// tests/serve/test_site_engine.py compares the answers of both.
globalThis.createEngine = (Failure, say) => {
const element = (name, text, options = {}) =>
  Object.assign(document.createElement(name), { textContent: text, ...options });
const site = JSON.parse(document.getElementById("site").textContent);
const { context_length: context, defaults, kind, system } = site.model;
const threads = self.crossOriginIsolated
  ? Math.min(4, Math.max(1, Math.floor(navigator.hardwareConcurrency / 2))) : 1;
const FILES = [site.file, threads > 1 ? site.multi : site.single];

// No text may become markup, and only a blob:, which wllama starts its worker from, the address of
// a script. With threads that worker starts others and could create no such policy; what remains is
// the policy of the page, which runs no foreign script.
if (threads === 1) {
  globalThis.trustedTypes?.createPolicy("default", {
    createScriptURL: url => url.startsWith(`blob:${location.origin}/`) ? url : null,
  });
  document.head.append(element("meta", "", {
    httpEquiv: "Content-Security-Policy",
    content: "require-trusted-types-for 'script'; trusted-types default",
  }));
}

// --- The model

let blobs = null; // a promise of the files of FILES
let cache = "default"; // of the browser; after a failure its content may be the culprit
let loaded = null; // a promise of a Wllama with the model
let seed = 0; // it was loaded with this one
let cached = []; // the tokens in its context

async function download({ path, bytes, version }, received) {
  const failed = reason => new Failure(`${path} cannot be loaded: ${reason}`);
  let response;
  try {
    // The version keeps a cache from mixing the files of two sites
    response = await fetch(`${path}?${version}`, { cache });
  } catch {
    throw failed("is the network up?");
  }
  if (!response.ok) throw failed(`the host answered ${response.status}. Is the folder complete?`);
  const parts = [], reader = response.body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
      received(value.length);
    }
  } catch {
    throw failed("the connection broke.");
  }
  // instantiateStreaming() wants this type, which not every host sends
  const blob = new Blob(parts, { type: "application/wasm" });
  if (blob.size !== bytes) throw failed(`it has ${blob.size} bytes instead of ${bytes}.`);
  return blob;
}

async function downloadAll() {
  const total = FILES.reduce((sum, file) => sum + file.bytes, 0);
  const megabytes = bytes => (bytes / 1e6).toFixed(1);
  const line = element("div", "", { id: "loading" }), words = element("span", "");
  const bar = element("progress", "", { max: total, value: 0, ariaLabel: "Loading the model" });
  line.append(words, bar);
  document.getElementById("status").before(line);
  const received = bytes => {
    bar.value += bytes;
    words.textContent = `Loading the model: ${megabytes(bar.value)} of ${megabytes(total)} MB`;
  };
  received(0);
  try {
    return await Promise.all(FILES.map(file => download(file, received)));
  } finally {
    line.remove();
  }
}

async function start(wanted) {
  if (location.protocol === "file:") {
    throw new Failure("A browser loads no model from a file. Run `python -m http.server` in this "
      + "folder and open the address that it prints.");
  }
  const [model, wasm] = await (blobs ??= downloadAll());
  const name = `${threads > 1 ? "multi" : "single"}-thread/wllama.wasm`;
  const address = URL.createObjectURL(wasm), silent = () => {};
  const logger = { debug: silent, log: silent, warn: silent, error: silent };
  try {
    const { Wllama } = await import(`./${site.script.path}?${site.script.version}`);
    const wllama = new Wllama({ [name]: address }, { suppressNativeLog: true, logger });
    const options = { seed: wanted, n_ctx: context, n_batch: 128, n_threads: threads };
    await wllama.loadModel([model], options);
    return wllama;
  } catch (error) {
    // wllama's words for an answer that is none: llama.cpp runs, and could not load the file
    if (/^Invalid (magic|version|typed array)/.test(error?.message)) {
      throw new Failure(`${site.file.path} cannot be read by llama.cpp: it is damaged, or larger `
        + "than the memory of this browser. Copy the file again.");
    }
    throw new Failure("The model does not start in this browser: a current Chrome, Firefox or "
      + `Safari can run it (${error?.message ?? error}).`);
  } finally {
    URL.revokeObjectURL(address);
  }
}

// The seed of wllama is that of the model. With -1 each answer begins with the time, in seconds.
function load(wanted = -1) {
  if (loaded && seed === wanted) return loaded;
  const before = loaded;
  seed = wanted;
  cached = [];
  const attempt = loaded = (async () => {
    await before?.then(wllama => wllama.exit(), () => {});
    return start(wanted);
  })();
  attempt.catch(() => {
    [blobs, cache] = [null, "reload"];
    if (loaded === attempt) loaded = null;
  });
  return attempt;
}

// --- The prompt: as token ids, so no text can become a special token. Literal ones get a space all
// the same, because the model was tuned so.

const { bos, eos, special, roles } = site.tokens;
const names = special.map(name => name.slice(1, -1)).join("|");
const literal = new RegExp(`\\[(?=(?:${names})\\])`, "g");
const neutralise = text => text.replace(literal, "[ ");

async function render(wllama, messages) {
  const tokens = text => wllama.tokenize(neutralise(text), false);
  let ids = wllama.mustAddBosToken() ? [bos] : [];
  if (kind === "base") {
    const texts = messages.map(message => message.content).filter(Boolean);
    return ids.concat(await tokens(texts.join("\n\n")));
  }
  for (const { role, content } of messages) {
    ids = ids.concat(roles[role], await tokens(content));
    if (role === "assistant") ids.push(eos);
  }
  if (messages.at(-1).role !== "assistant") return ids.concat(roles.assistant);
  return ids.slice(0, -1); // to be continued
}

// The prompt with as many of the last turns as leave room for an answer
async function fit(wllama, messages, length) {
  const room = context - Math.min(length, Math.floor(context / 2));
  const first = kind === "chat" && system ? [{ role: "system", content: system }] : [];
  const last = messages.length - 1;
  let start = last, ids = null;
  for (let next = last; next >= 0; next--) {
    // The rest begins with a turn of the user, or is the last turn
    if (messages[next].role !== "user" && next > 0 && next < last) continue;
    const longer = await render(wllama, [...first, ...messages.slice(next)]);
    if (longer.length > room) {
      if (ids) break;
      throw new Failure(`the prompt is too long, it has ${longer.length} tokens, the model can read ${room} and `
        + "still answer: shorten it");
    }
    [start, ids] = [next, longer];
  }
  return { ids, dropped: start };
}

// Evaluates the prompt, without the tokens at its beginning that are in the context already
async function read(wllama, ids, signal) {
  let same = 0;
  while (same < Math.min(cached.length, ids.length - 1) && cached[same] === ids[same]) same++;
  cached = [];
  if (same) await wllama.kvRemove(same, -1); else await wllama.kvClear();
  await wllama.decode(ids.slice(same), { abortSignal: signal });
  cached = [...ids];
}

// --- The answer

// What can be shown of a text: what may become a stop text is held back
function split(text, last) {
  const found = site.stop.map(stop => text.indexOf(stop)).filter(place => place >= 0);
  if (found.length) return { shown: text.slice(0, Math.min(...found)), rest: "", stopped: true };
  const starts = site.stop.flatMap(stop => [...stop].map((_, n) => stop.slice(0, n)));
  const held = last ? [] : starts.filter(start => text.endsWith(start));
  const end = text.length - Math.max(0, ...held.map(start => start.length));
  return { shown: text.slice(0, end), rest: text.slice(end), stopped: false };
}

async function* generate(wllama, body, signal) {
  const settings = { ...defaults, ...body };
  const messages = body.messages.map(({ role, content }) =>
    ({ role, content: kind === "chat" && role === "assistant" ? content.trim() : content }));
  const { ids, dropped } = await fit(wllama, messages, settings.max_tokens);
  const most = Math.min(settings.max_tokens, context - ids.length);
  await wllama.samplingInit({
    temp: settings.temperature, top_p: settings.top_p, top_k: settings.top_k, min_p: 0,
    penalty_repeat: settings.repeat_penalty, penalty_last_n: 64,
  });
  await wllama.samplingAccept(ids);
  await read(wllama, ids, signal);
  const decoder = new TextDecoder(), began = performance.now();
  let rest = "", count = 0, reason = null;
  while (!reason) {
    signal.throwIfAborted();
    const { token, piece } = await wllama.samplingSample();
    count++;
    const ended = wllama.isTokenEOG(token), last = ended || count >= most;
    const text = rest + (ended ? decoder.decode() : decoder.decode(piece, { stream: !last }));
    const part = split(text, last);
    rest = part.rest;
    if (ended || part.stopped) reason = "stop"; else if (last) reason = "length";
    if (part.shown) yield { choices: [{ delta: { content: part.shown }, finish_reason: null }] };
    if (reason) break;
    await wllama.samplingAccept([token]);
    await wllama.decode([token], {});
    cached.push(token);
  }
  const seconds = (performance.now() - began) / 1000;
  yield {
    choices: [{ delta: {}, finish_reason: reason }],
    usage: { prompt_tokens: ids.length, completion_tokens: count },
    antimatter: { tokens_per_second: count / seconds, dropped_turns: dropped },
  };
}

const aborted = signal => new Promise((_, reject) => {
  signal.addEventListener("abort", () => reject(signal.reason));
});

let queue = Promise.resolve(); // one answer at a time: a stopped one ends first

async function* answer(body, signal, waiting) {
  const before = queue;
  let end;
  queue = new Promise(resolve => { end = resolve; });
  try {
    signal.throwIfAborted();
    await Promise.race([before, aborted(signal)]);
    const wanted = body.seed === undefined ? -1 : body.seed % 2147483646 + 1;
    const wllama = await Promise.race([load(wanted), aborted(signal)]);
    waiting(0);
    yield* generate(wllama, body, signal);
  } catch (error) {
    if (error instanceof Failure || signal.aborted) throw error;
    loaded = null; // a crashed worker answers nothing any more
    throw new Failure(`llama.cpp failed in this browser: ${error?.message ?? error}. Try again.`);
  } finally {
    before.then(end);
  }
}

// --- What the page shows about the model

function offerFacts() {
  const dialog = element("dialog", "", { id: "about" }), list = element("dl", "");
  const title = element("h2", "About this model", { id: "about-title", tabIndex: -1 });
  dialog.setAttribute("aria-labelledby", title.id);
  for (const [name, text] of site.facts) list.append(element("dt", name), element("dd", text));
  const close = element("button", "Close", { className: "main", type: "button" });
  const buttons = element("div", "", { className: "buttons" });
  buttons.append(close);
  dialog.append(title, list, buttons);
  document.body.append(dialog);
  const open = element("button", "About", { type: "button", ariaHasPopup: "dialog" });
  open.onclick = () => { dialog.showModal(); title.focus(); };
  close.onclick = () => dialog.close();
  document.getElementById("open-settings").before(open);
}

const begin = () => load().catch(error => say(error.message, "Retry", begin));
const unit = threads > 1 ? `${threads} threads` : "one thread";

offerFacts();
return {
  answer,
  async model() {
    begin(); // the page can be read and written in meanwhile
    return { ...site.model, engine: `llama.cpp in this browser, ${site.file.path}, ${unit}` };
  },
};
};
