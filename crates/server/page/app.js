// The page: views, the form, the stage where pictures appear, and what falls onto the page.

import { $, call, encoded, kept, make, toast, watch } from "./api.js";
import * as editor from "./editor.js";
import * as gallery from "./gallery.js";
import { current, put, speak, word } from "./words.js";

const views = ["draw", "edit", "gallery"];
let models = [];

function go(view) {
  if (location.hash !== `#${view}`) location.hash = view;
}

function showView() {
  const asked = location.hash.slice(1);
  const view = views.includes(asked) ? asked : "draw";
  for (const name of views) $(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "gallery") gallery.refresh();
}

function theme(chosen) {
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function say(language) {
  speak(language);
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  if (!$("view-gallery").hidden) gallery.refresh();
  showHistory();
}

// The form.

function remember(prompt) {
  const earlier = kept.get("prompts", []).filter((one) => one !== prompt);
  kept.set("prompts", [prompt, ...earlier].slice(0, 30));
  showHistory();
}

const examples = {
  en: ["a turtle on a yellow background", "two red strawberries on a blue dotted background", "a balloon in the top left corner"],
  zh: ["黄色背景上的乌龟", "两只红色的猫", "夜空下的星星"],
};

function showHistory() {
  const prompts = kept.get("prompts", []);
  const offered = (prompts.length ? prompts : examples[current()]).slice(0, 6);
  $("history").replaceChildren(...offered.map((prompt) => make("button", {
    type: "button", title: prompt, onclick: () => { $("prompt").value = prompt; $("prompt").focus(); },
  }, prompt)));
}

function showGuidance() { $("guidance-value").textContent = $("guidance").value; }

/** The settings of the model where nothing else was chosen. */
function showModel() {
  const model = models.find(({ id }) => id === $("model").value) ?? models[0];
  if (!model) return;
  $("guidance").value = model.sampling.guidance_scale;
  $("temperature").value = model.sampling.temperature;
  $("top-k").value = model.sampling.top_k ?? "";
  showGuidance();
}

let locked = false;
function lock(value) {
  locked = value;
  $("lock").setAttribute("aria-pressed", locked);
  $("lock").textContent = locked ? "🔒" : "🔓";
}

const numberOf = (id) => ($(id).value === "" ? undefined : Number($(id).value));

async function draw() {
  const prompt = $("prompt").value.trim();
  if (!prompt) { $("prompt").focus(); return; }
  const bestOf = numberOf("best-of");
  const body = {
    kind: "generate", prompt, n: numberOf("n"), model: $("model").value || undefined, guidance: numberOf("guidance"),
    negative_prompt: $("negative").value.trim() || undefined, temperature: numberOf("temperature"), top_k: numberOf("top-k"), order: $("order").value || undefined,
    best_of: bestOf && bestOf > numberOf("n") ? bestOf : undefined,
    seed: locked && $("seed").value ? $("seed").value : undefined,
  };
  const job = await call("POST", "/api/jobs", body);
  if (!locked) $("seed").value = job.seed;
  remember(prompt);
  stage(job);
}

/** Settings that a picture had. */
async function reuse(given) {
  const { settings } = await call("POST", "/api/settings", given);
  if (!settings) return false;
  go("draw");
  $("prompt").value = settings.prompt;
  $("seed").value = settings.seed;
  lock(true);
  $("n").value = 1;
  if (models.some(({ id }) => id === settings.model)) $("model").value = settings.model;
  $("guidance").value = settings.sampling.guidance_scale;
  $("temperature").value = settings.sampling.temperature;
  $("top-k").value = settings.sampling.top_k ?? "";
  const known = [...$("order").options].some(({ value }) => value === settings.order);
  $("order").value = known ? settings.order : "";
  $("best-of").value = "";
  $("negative").value = settings.negative_prompt ?? "";
  showGuidance();
  toast(word("restored"));
  return true;
}

async function vary(picture) {
  go("draw");
  stage(await call("POST", "/api/jobs", {
    kind: "vary", picture: picture.id, n: 8, strength: 0.4, model: picture.model, prompt: picture.prompt || undefined,
  }));
}

// The stage.

/** A job's card: its pictures appear in it as they are drawn. */
function stage(job, earlier = false) {
  $("stage").querySelector(".empty-note")?.remove();
  const title = job.prompt || word(job.kind === "vary" ? "variationsOf" : "editOf");
  const state = make("span", { className: "state" });
  const bar = make("progress", { max: 1, value: job.progress, ariaLabel: title });
  const cancel = make("button", { type: "button", onclick: () => call("POST", `/api/jobs/${job.id}/cancel`).catch((error) => toast(error.message)) });
  put(cancel, "cancel");
  const tiles = make("div", { className: job.n === 1 ? "tiles one" : job.n <= 4 ? "tiles few" : "tiles" });
  const card = make("article", { className: "job" }, make("div", { className: "job-head" }, make("h3", {}, title), state, cancel), bar, tiles);
  const places = Array.from({ length: job.n }, () => {
    const waiting = make("div", { className: "tile waiting", role: "img", ariaLabel: word("waitingPicture") });
    tiles.append(waiting);
    return waiting;
  });
  const made = [];
  const size = models.find(({ id }) => id === job.model)?.size ?? 0;
  const show = (picture) => {
    made.push(picture);
    made.sort((a, b) => a.place - b.place);
    const tile = gallery.tile(picture, made);
    places[picture.place]?.replaceWith(tile);
    places[picture.place] = tile;
  };
  const end = (ended) => {
    bar.remove();
    cancel.remove();
    if (ended.status === "done") put(state, "seedOf", ended.seed); else put(state, ended.status);
    for (const place of places) if (place.classList.contains("waiting")) place.remove();
    if (ended.status === "failed") tiles.append(make("p", { className: "failure" }, ended.error?.message ?? word("failed")));
    if (["failed", "cancelled"].includes(ended.status)) {
      state.after(put(make("button", { type: "button", onclick: async () => {
        try { stage(await call("POST", `/api/jobs/${job.id}/retry`)); } catch (error) { toast(error.message); }
      } }), "again"));
    }
  };
  earlier ? $("stage").append(card) : $("stage").prepend(card);
  while ($("stage").children.length > 30) $("stage").lastElementChild.remove();
  if (["done", "failed", "cancelled"].includes(job.status)) {
    job.pictures.forEach(show);
    end(job);
    // Pictures may have been deleted since.
    if (job.status === "done" && job.pictures.length === 0) card.remove();
    return;
  }
  const handle = (name, data) => {
    if (name === "progress") {
      bar.value = data.progress;
      const percent = Math.round(100 * data.progress);
      if (data.status === "queued") put(state, "queued", data.before); else put(state, "running", percent);
    }
    if (name === "preview" && places[data.place]?.classList.contains("waiting")) {
      const place = places[data.place];
      let image = place.querySelector("img");
      if (!image) place.append(image = make("img", { alt: "", className: size < 200 ? "small" : "" }));
      image.src = data.image;
    }
    if (name === "picture" && !made.some(({ place }) => place === data.place)) show(data);
    if (name === "job") end(data);
  };
  follow(job, handle, (error) => { toast(error.message); });
}

/** Watches a job to its end, through a connection that breaks and a server that starts again. */
async function follow(job, handle, failed) {
  let over = false;
  for (let attempt = 0; attempt < 30 && !over; attempt++) {
    try {
      await watch(job.id, (name, data) => {
        attempt = 0;
        over ||= name === "job" && ["done", "failed", "cancelled"].includes(data.status);
        if (name !== "job" || over) handle(name, data);
      });
    } catch (error) {
      if (attempt === 29) failed(error);
    }
    if (!over) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

// What falls onto the page.

async function received(file) {
  if (!file?.type.startsWith("image/")) return;
  if (await reuse({ image: await encoded(file) })) return;
  go("edit");
  await editor.openFile(file);
  toast(word("noSettings"));
}

function catchFiles() {
  let depth = 0;
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (hasFile(event)) { depth++; $("drop").hidden = false; event.preventDefault(); } });
  addEventListener("dragover", (event) => { if (hasFile(event)) event.preventDefault(); });
  addEventListener("dragleave", (event) => { if (hasFile(event) && --depth <= 0) $("drop").hidden = true; });
  addEventListener("drop", (event) => {
    depth = 0;
    $("drop").hidden = true;
    if (!hasFile(event)) return;
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    const editing = !$("view-edit").hidden;
    (editing ? editor.openFile(file) : received(file)).catch((error) => toast(error.message));
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    go("edit");
    editor.openFile(file).catch((error) => toast(error.message));
  });
}

function catchKeys() {
  $("draw-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("draw-form").requestSubmit(); }
  });
  addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, select, dialog, canvas") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); go("gallery"); setTimeout(() => $("query").focus()); }
    if (["1", "2", "3"].includes(event.key)) go(views[Number(event.key) - 1]);
  });
}

async function start() {
  theme(kept.get("theme", null));
  const language = kept.get("language", navigator.language?.startsWith("zh") ? "zh" : "en");
  say(language);
  $("language").addEventListener("click", () => {
    const chosen = current() === "zh" ? "en" : "zh";
    kept.set("language", chosen);
    say(chosen);
  });
  $("theme").addEventListener("click", () => {
    const chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    kept.set("theme", chosen);
    theme(chosen);
  });
  addEventListener("hashchange", showView);
  $("draw-form").addEventListener("submit", (event) => { event.preventDefault(); draw().catch((error) => toast(error.message)); });
  $("guidance").addEventListener("input", showGuidance);
  $("model").addEventListener("change", showModel);
  $("lock").addEventListener("click", () => lock(!locked));
  $("seed").addEventListener("input", () => lock($("seed").value !== ""));
  gallery.start({ reuse, vary, go, edit: async (picture) => { go("edit"); await editor.openPicture(picture); } });
  editor.start();
  catchFiles();
  catchKeys();
  showView();
  try {
    models = (await call("GET", "/api/models")).models;
    $("model").replaceChildren(...models.map(({ id, size }) => make("option", { value: id }, `${id} (${size} px)`)));
    showModel();
    const { jobs } = await call("GET", "/api/jobs?limit=12");
    $("stage").replaceChildren();
    for (const job of jobs.filter(({ kind }) => kind !== "edit")) stage(job, true);
    if (!$("stage").children.length) $("stage").append(put(make("p", { className: "empty-note" }), "nothingYet"));
  } catch (error) { toast(error.message); }
  document.documentElement.dataset.ready = "true";
}

start();
