// The gallery, and the dialog of one picture.

import { $, address, call, kept, make, pictureOf, toast } from "./api.js";
import { current, word } from "./words.js";

let shown = [];
let chosen = new Set();
let viewed = null;
let last = null;
let search = null;
let favourites = false;
let selecting = false;
let actions = {};

export function start(given) {
  actions = given;
  $("search").addEventListener("submit", (event) => { event.preventDefault(); refresh({ words: $("query").value.trim() }); });
  $("query").addEventListener("input", () => { if (!$("query").value) refresh({ words: "" }); });
  $("favourites").addEventListener("click", () => {
    favourites = !favourites;
    $("favourites").setAttribute("aria-pressed", favourites);
    refresh();
  });
  $("select").addEventListener("click", () => {
    selecting = !selecting;
    chosen.clear();
    $("select").setAttribute("aria-pressed", selecting);
    render();
  });
  $("delete-selected").addEventListener("click", deleteChosen);
  $("load-more").addEventListener("click", more);
  $("pictures").addEventListener("keydown", move);
  const dialog = $("viewer");
  $("viewer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", viewerKey);
  const act = (id, work) => $(id).addEventListener("click", () => work(viewed).catch((error) => toast(error.message)));
  act("viewer-favourite", favourite);
  act("viewer-reuse", async (picture) => { dialog.close(); await actions.reuse({ picture: picture.id }); });
  act("viewer-vary", async (picture) => { dialog.close(); await actions.vary(picture); });
  act("viewer-edit", async (picture) => { dialog.close(); await actions.edit(picture); });
  act("viewer-similar", async (picture) => {
    dialog.close();
    actions.go("gallery");
    $("query").value = "";
    await refresh({ similar: picture.id });
  });
  act("viewer-caption", async (picture) => {
    // The note of this view of the picture: the next one begins with another.
    const note = make("span", {}, "…");
    $("viewer-note").replaceChildren(note);
    const language = current();
    try {
      const { captions } = await call("POST", "/api/captions", { picture: picture.id, n: 3, language });
      note.replaceChildren(...captions.map(({ text, log_likelihood }) =>
        make("span", { className: "caption" }, `${text} (${log_likelihood.toFixed(1)})`, make("br"))));
    } catch (error) { note.textContent = error.message; }
  });
  act("viewer-command", async (picture) => copy(await commandOf(picture)));
  act("viewer-curl", async (picture) => copy(await curlOf(picture)));
  act("viewer-delete", async (picture) => {
    await call("DELETE", `/api/pictures/${picture.id}`);
    forget([picture.id]);
    dialog.close();
  });
}

/** Shows the first page again. */
export async function refresh(asked) {
  if (asked !== undefined) search = asked.words ? asked : asked.similar ? asked : null;
  const only = favourites;
  if (search?.words) {
    await show(call("GET", `/api/pictures/search?limit=100&q=${encodeURIComponent(search.words)}`), (answer) => {
      shown = only ? answer.pictures.filter((picture) => picture.favourite) : answer.pictures;
      last = null;
    });
  } else if (search?.similar) {
    await show(call("POST", "/api/pictures/search", { picture: search.similar, limit: 60 }), (answer) => {
      shown = answer.pictures;
      last = null;
    });
  } else {
    await show(call("GET", `/api/pictures?limit=60&favourites=${only}`), (page) => {
      shown = [];
      $("gallery-count").textContent = only ? page.favourites : page.total;
      append(page);
    });
  }
}

async function more() {
  if (last) await show(call("GET", `/api/pictures?limit=60&favourites=${favourites}&after=${last}`), append);
}

function append(page) {
  shown.push(...page.pictures);
  last = page.pictures.length === 60 ? page.pictures.at(-1).id : null;
}

let newest = null;
/** Shows what a request answers, unless another was sent in the meantime: answers may arrive in any order. */
async function show(request, take) {
  newest = request;
  try {
    const answer = await request;
    if (request !== newest) return;
    take(answer);
    render();
  } catch (error) { if (request === newest) toast(error.message); }
}

export function tile(picture, list) {
  const button = make("button", { type: "button", className: "tile", title: picture.prompt }, pictureOf(picture));
  button.dataset.id = picture.id;
  if (picture.favourite) button.append(make("span", { className: "mark", ariaHidden: "true" }, "★"));
  button.addEventListener("click", () => view(picture, list));
  return button;
}

function render() {
  const focused = document.activeElement?.dataset?.id;
  const tiles = shown.map((picture) => {
    const element = tile(picture, shown);
    if (selecting) {
      const replaced = element.cloneNode(true);
      replaced.classList.toggle("selected", chosen.has(picture.id));
      replaced.setAttribute("aria-pressed", chosen.has(picture.id));
      replaced.addEventListener("click", () => {
        chosen.has(picture.id) ? chosen.delete(picture.id) : chosen.add(picture.id);
        replaced.classList.toggle("selected", chosen.has(picture.id));
        replaced.setAttribute("aria-pressed", chosen.has(picture.id));
        bar();
      });
      return make("div", { role: "listitem" }, replaced);
    }
    return make("div", { role: "listitem" }, element);
  });
  const nothing = search ? "nothingFound" : "noPictures";
  $("pictures").replaceChildren(...(tiles.length ? tiles : [make("div", { role: "listitem", className: "empty-note" }, word(nothing))]));
  $("load-more").hidden = !last;
  if (focused) $("pictures").querySelector(`[data-id="${focused}"]`)?.focus();
  bar();
}

function bar() {
  $("delete-selected").hidden = !selecting || chosen.size === 0;
  $("delete-selected").textContent = word("deleteMany", chosen.size);
}

async function deleteChosen() {
  try {
    const ids = [...chosen];
    const { deleted } = await call("POST", "/api/pictures/delete", { ids });
    toast(word("deleted", deleted));
    chosen.clear();
    forget(ids);
  } catch (error) { toast(error.message); }
}

/** Pictures are gone: everywhere on the page. */
function forget(ids) {
  shown = shown.filter((picture) => !ids.includes(picture.id));
  for (const id of ids) for (const element of document.querySelectorAll(`#stage [data-id="${id}"]`)) element.remove();
  refresh();
}

/** Arrow keys move among the tiles. */
function move(event) {
  const tiles = [...$("pictures").querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = tiles.filter((tile) => Math.abs(tile.getBoundingClientRect().top - tiles[0].getBoundingClientRect().top) < 2).length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (by) { tiles[at + by]?.focus(); event.preventDefault(); }
  const picture = shown.find(({ id }) => id === document.activeElement.dataset.id);
  if (event.key === "f" && picture) { viewed = picture; favourite(picture).catch((error) => toast(error.message)); }
}

let siblings = [];

/** Opens the dialog. */
export function view(picture, list = [picture]) {
  viewed = picture;
  siblings = list;
  $("viewer-image").src = address(picture);
  $("viewer-image").alt = picture.prompt;
  $("viewer-image").className = picture.width < 200 ? "small" : "";
  $("viewer-prompt").textContent = picture.prompt || word(picture.kind === "vary" ? "variationsOf" : "editOf");
  const facts = [
    [word("seed"), picture.seed], [word("size"), `${picture.width} × ${picture.height}`], [word("model"), picture.model],
    [word("likelihood"), picture.log_likelihood?.toFixed(1)], [word("score"), picture.clip_score?.toFixed(3)],
    [word("made"), new Date(picture.created * 1000).toLocaleString(document.documentElement.lang)],
  ];
  $("viewer-facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) =>
    [make("dt", {}, name), make("dd", {}, String(value))]));
  $("viewer-note").textContent = "";
  $("viewer-download").href = `${address(picture)}?download=true`;
  showFavourite();
  if (!$("viewer").open) $("viewer").showModal();
}

function showFavourite() {
  $("viewer-favourite").setAttribute("aria-pressed", viewed.favourite);
  $("viewer-favourite").textContent = `★ ${word(viewed.favourite ? "unfavourite" : "favourite")}`;
}

async function favourite(picture) {
  const changed = await call("PATCH", `/api/pictures/${picture.id}`, { favourite: !picture.favourite });
  picture.favourite = changed.favourite;
  for (const element of document.querySelectorAll(`.tile[data-id="${picture.id}"]`)) {
    element.querySelector(".mark")?.remove();
    if (changed.favourite) element.append(make("span", { className: "mark", ariaHidden: "true" }, "★"));
  }
  showFavourite();
}

function viewerKey(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by) {
    const next = siblings[siblings.findIndex(({ id }) => id === viewed.id) + by];
    if (next) view(next, siblings);
  } else if (event.key === "f") favourite(viewed).catch((error) => toast(error.message));
  else if (event.key === "Delete") $("viewer-delete").click();
}

async function copy(text) {
  await navigator.clipboard.writeText(text);
  toast(word("copied"));
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

async function settingsOf(picture) {
  return (await call("POST", "/api/settings", { picture: picture.id })).settings;
}

async function commandOf(picture) {
  const { prompt, negative_prompt, seed, sampling, order, model } = await settingsOf(picture);
  const flags = [
    `--seed ${seed}`, `--guidance ${sampling.guidance_scale}`, `--temperature ${sampling.temperature}`,
    negative_prompt ? `--negative ${quoted(negative_prompt)}` : "", sampling.top_k ? `--top-k ${sampling.top_k}` : "", sampling.top_p ? `--top-p ${sampling.top_p}` : "",
    `--order ${order}`, `--model ${quoted(model)}`,
  ];
  return `impasto generate ${quoted(prompt)} ${flags.filter(Boolean).join(" ")}`;
}

async function curlOf(picture) {
  const { prompt, negative_prompt, seed, sampling, order, model } = await settingsOf(picture);
  // Seeds have 64 bits: written as they are, not as a number of JavaScript's.
  const rest = JSON.stringify({
    prompt, negative_prompt: negative_prompt ?? undefined, model, order, guidance: sampling.guidance_scale, temperature: sampling.temperature,
    top_k: sampling.top_k ?? undefined, top_p: sampling.top_p ?? undefined,
  });
  const body = `${rest.slice(0, -1)},"seed":${seed}}`;
  const key = kept.get("key", null) ? " -H 'Authorization: Bearer KEY'" : "";
  return `curl ${location.origin}/v1/images/generations -H 'Content-Type: application/json'${key} -d ${quoted(body)}`;
}
