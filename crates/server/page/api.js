// Requests to the server, its events, and small things that every view needs.

import { word } from "./words.js";

export const $ = (id) => document.getElementById(id);

/** An element. Text becomes text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** What the reader chose, kept in the browser. Storage may be forbidden: then it lasts as long as the page. */
export const kept = {
  get(name, usual) {
    try { return JSON.parse(localStorage.getItem(`impasto.${name}`)) ?? usual; } catch { return usual; }
  },
  set(name, value) {
    try { localStorage.setItem(`impasto.${name}`, JSON.stringify(value)); } catch { /* not kept */ }
  },
};

let toastTimer;
export function toast(text) {
  const toast = $("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => toast.classList.remove("shown"), 4000);
}

let asking = null;
/** Asks for the key once, however many requests need it. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-form").onsubmit = () => { kept.set("key", $("key").value.trim()); };
    dialog.onclose = () => { asking = null; resolve(); };
    dialog.showModal();
  });
  return asking;
}

async function send(method, path, body, signal) {
  for (;;) {
    const headers = {};
    const key = kept.get("key", null);
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error(word("offline"));
    }
    if (response.status === 401) { await askForKey(); continue; }
    if (!response.ok) {
      const answer = await response.json().catch(() => null);
      throw new Error(answer?.error?.message ?? `${response.status}`);
    }
    return response;
  }
}

/** A request; the answer's JSON. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  return response.status === 204 ? null : response.json();
}

/** A job's events, until it is over. EventSource can't send a key, so the stream is read here. */
export async function watch(job, handle, signal) {
  const response = await send("GET", `/api/jobs/${job}/events`, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    let end;
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const block = waiting.slice(0, end);
      waiting = waiting.slice(end + 2);
      let name = "message", data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        if (line.startsWith("data:")) data += line.slice(5).trim();
      }
      if (data) handle(name, JSON.parse(data));
    }
  }
}

/** A file as base64. */
export function encoded(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

export const address = (picture, extension = "png") => `/files/${picture.id}.${extension}`;

/** A picture's tile. Small pictures keep their pixels when they are enlarged. */
export function pictureOf(picture) {
  const title = picture.prompt || word(picture.kind === "vary" ? "variationsOf" : "editOf");
  return make("img", { src: address(picture), alt: title, loading: "lazy", className: picture.width < 200 ? "small" : "", draggable: true });
}
