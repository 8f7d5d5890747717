"use strict";
const data = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const { explanation, atlas } = data;
const { words, patches, grid } = explanation;

const texts = {
  en: {
    title: "Why this picture", hint: "Point at a word to see the patches that it shaped; point at a patch to see its words and the codes that the model nearly took. Tap or press Enter to keep one.",
    weak: "weak", strong: "strong", entropyButton: "How unsure the model was", other: "中文",
    picture: "The picture, patch by patch", patch: "Row {0}, column {1}", strongest: "Strongest at row {0}, column {1}.",
    entropyCaption: "Bright: many codes were possible there; dark: the model was sure.",
    wordCaption: "Patches that “{0}” shaped.", words: "Words behind this patch", alternatives: "Codes that it nearly took",
    taken: "Taken: code {0}, {1} %", unsure: "Entropy {0} nats: about {1} equally likely codes", nats: "nats",
    none: "The word did not make any patch likelier.", wordTitle: "“{0}”", top: "Its patches",
    atlas: "The codes of this picture", atlasNote: "Each code decoded on its own. Point at one to see where it stands.", times: "× {0}",
    about: "Model {0}, method {1}, ln p(picture | prompt) = {2} nats. Patches are predicted in raster order, without guidance. A map says what this model's predictions depend on, not what a person would point at.",
    start: "Point at a word or at a patch.", code: "Code {0}", clipButton: "What CLIP looks at", clipTitle: "By {0}",
    clipCaption: "Patches that CLIP's similarity of picture and prompt rests on.", clipCosine: "Cosine of picture and prompt: {0}", clipWords: "Words that it rests on",
  },
  zh: {
    title: "这张图为什么是这样", hint: "指向一个词，查看它影响的图块；指向一个图块，查看与它有关的词，以及模型差一点选用的编码。点击或按回车键可固定选择。",
    weak: "弱", strong: "强", entropyButton: "模型有多不确定", other: "English",
    picture: "图像，逐块显示", patch: "第 {0} 行，第 {1} 列", strongest: "最强处：第 {0} 行，第 {1} 列。",
    entropyCaption: "亮：那里可能的编码很多；暗：模型很有把握。",
    wordCaption: "“{0}”影响的图块。", words: "与此图块有关的词", alternatives: "差一点选用的编码",
    taken: "选用：编码 {0}，{1} %", unsure: "熵 {0} nat：相当于约 {1} 个同样可能的编码", nats: "nat",
    none: "这个词没有使任何图块更可能出现。", wordTitle: "“{0}”", top: "它的图块",
    atlas: "这张图的编码", atlasNote: "每个编码单独解码的样子。指向一个编码，查看它出现的位置。", times: "× {0}",
    about: "模型 {0}，方法 {1}，ln p(图像 | 提示词) = {2} nat。图块按光栅顺序预测，不用引导。热图说明模型的预测依赖什么，而不是人会指向哪里。",
    start: "请指向一个词或一个图块。", code: "编码 {0}", clipButton: "CLIP 看哪里", clipTitle: "由 {0} 得出",
    clipCaption: "CLIP 判断图像与提示词相似时所依据的图块。", clipCosine: "图像与提示词的余弦相似度：{0}", clipWords: "它所依据的词",
  },
};
let language = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
const say = (key, ...values) => texts[language][key].replace(/\{(\d)\}/g, (_, i) => values[i]);
const isRelative = ["attention", "rollout", "gradient"].includes(explanation.method);
const unit = () => (isRelative ? "" : " " + say("nats"));

const $ = (id) => document.getElementById(id);
function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

// What is shown: a word, a patch, a code or the entropies. `kept` stays when the pointer leaves.
let kept = null;
const same = (a, b) => Boolean(a && b) && a.kind === b.kind && a.index === b.index;

function tile(code) {
  const place = atlas.codes.indexOf(code);
  const [x, y] = [place % atlas.columns, Math.floor(place / atlas.columns)];
  const rows = Math.ceil(atlas.codes.length / atlas.columns);
  const node = element("span", undefined, "tile");
  node.style.backgroundImage = `url(${atlas.sheet})`;
  node.style.backgroundSize = `${atlas.columns * 100}% ${rows * 100}%`;
  node.style.backgroundPosition = `${(x / (atlas.columns - 1)) * 100}% ${rows > 1 ? (y / (rows - 1)) * 100 : 0}%`;
  return node;
}

// Shades the patches by values: the largest is bare, those of 0 and less are dark.
function shade(values) {
  const largest = Math.max(...values, 1e-12);
  cells.forEach((cell, i) => {
    const strength = Math.min(Math.max(values[i] / largest, 0), 1);
    cell.dataset.strength = strength.toFixed(3);
    cell.style.background = `rgb(20 15 11 / ${((1 - strength) * 0.82).toFixed(3)})`;
  });
}
function bare() {
  cells.forEach((cell) => { delete cell.dataset.strength; cell.style.background = "transparent"; });
}

function bars(items) {
  const list = element("ul");
  const largest = Math.max(...items.map((item) => Math.abs(item.value)), 1e-12);
  for (const item of items) {
    const row = element("li", undefined, item.code === undefined ? "" : "code");
    row.append(item.code === undefined ? element("span", item.name) : tile(item.code));
    const bar = element("span", undefined, "bar");
    const fill = element("i", undefined, item.value < 0 ? "less" : "");
    fill.style.width = `${(100 * Math.abs(item.value)) / largest}%`;
    bar.append(fill);
    row.append(bar, element("span", item.text));
    list.append(row);
  }
  return list;
}

const at = (i) => [Math.floor(i / grid) + 1, (i % grid) + 1];
function order(values) {
  return values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
}

const show = {
  word(index) {
    const { word, map } = words[index];
    shade(map);
    const best = order(map);
    $("caption").textContent = say("wordCaption", word) + " " + (map[best[0]] > 0 ? say("strongest", ...at(best[0])) : say("none"));
    $("detail").append(element("h2", say("wordTitle", word)), element("h3", say("top")));
    $("detail").append(bars(best.slice(0, 8).map((i) => ({ name: at(i).join(", "), value: map[i], text: map[i].toFixed(2) + unit() }))));
  },
  patch(index) {
    const patch = patches[index];
    bare();
    cells[index].classList.add("chosen");
    const detail = $("detail");
    detail.append(element("h2", say("patch", ...at(index))));
    detail.append(element("p", say("taken", patch.id, (100 * patch.probability).toFixed(1)), "note"));
    detail.append(element("p", say("unsure", patch.entropy.toFixed(2), Math.max(1, Math.round(Math.exp(patch.entropy)))), "note"));
    detail.append(element("h3", say("words")));
    const values = words.map((word) => word.map[index]);
    detail.append(bars(order(values).slice(0, 6).map((i) => ({ name: words[i].word, value: values[i], text: values[i].toFixed(2) + unit() }))));
    for (const [i, node] of wordButtons.entries()) node.classList.toggle("lit", values[i] > 0 && i === order(values)[0]);
    detail.append(element("h3", say("alternatives")));
    const codes = [{ id: patch.id, probability: patch.probability }, ...patch.alternatives];
    detail.append(bars(codes.map((code) => ({ code: code.id, value: code.probability, text: (100 * code.probability).toFixed(1) + " %" }))));
    $("caption").textContent = say("patch", ...at(index));
  },
  code(index) {
    shade(patches.map((patch) => (patch.id === index ? 1 : 0)));
    $("caption").textContent = say("code", index);
    $("detail").append(element("h2", say("code", index)), tile(index));
  },
  entropy() {
    shade(patches.map((patch) => patch.entropy));
    $("caption").textContent = say("entropyCaption");
    const entropies = patches.map((patch) => patch.entropy);
    $("detail").append(element("h2", say("entropyButton")));
    $("detail").append(bars(order(entropies).slice(0, 8).map((i) => ({ name: at(i).join(", "), value: entropies[i], text: entropies[i].toFixed(2) + " " + say("nats") }))));
  },
  clip() {
    shade(data.clip);
    const { clip } = explanation;
    $("caption").textContent = say("clipCaption");
    $("detail").append(element("h2", say("clipTitle", clip.model)), element("p", say("clipCosine", clip.cosine.toFixed(3)), "note"), element("h3", say("clipWords")));
    const values = clip.words.map((word) => word.relevance);
    $("detail").append(bars(order(values).slice(0, 8).map((i) => ({ name: clip.words[i].word, value: values[i], text: values[i].toPrecision(2) }))));
    for (const [i, node] of wordButtons.entries()) node.classList.toggle("lit", values[i] > 0 && i === order(values)[0]);
  },
};

function draw(view) {
  $("detail").replaceChildren();
  $("caption").textContent = "";
  for (const node of wordButtons) node.classList.remove("lit");
  for (const cell of cells) cell.classList.remove("chosen");
  wordButtons.forEach((node, i) => node.setAttribute("aria-pressed", String(same(kept, { kind: "word", index: i }))));
  for (const kind of ["entropy", "clip"]) $(kind).setAttribute("aria-pressed", String(kept?.kind === kind));
  if (view) {
    if (view.kind === "word") wordButtons[view.index].classList.add("lit");
    show[view.kind](view.index);
  } else {
    bare();
    $("detail").append(element("p", say("start"), "note"));
  }
  document.documentElement.dataset.view = view ? `${view.kind}:${view.index ?? ""}` : "";
}

function follow(node, kind, index) {
  const view = { kind, index };
  node.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && draw(view));
  node.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && draw(kept));
  node.addEventListener("focus", () => draw(view));
  node.addEventListener("blur", () => draw(kept));
  node.addEventListener("click", () => { kept = same(kept, view) ? null : view; draw(kept ?? view); });
}

// The prompt: words are buttons, what is between them stays text. Offsets count bytes.
const bytes = new TextEncoder().encode(explanation.prompt);
const text = (from, to) => new TextDecoder().decode(bytes.slice(from, to));
const wordButtons = [];
let end = 0;
words.forEach((word, i) => {
  $("prompt").append(text(end, word.start));
  const node = element("button", word.word);
  node.type = "button";
  follow(node, "word", i);
  wordButtons.push(node);
  $("prompt").append(node);
  end = word.end;
});
$("prompt").append(text(end, bytes.length));

// The picture: one button for each patch, of which one is in the order of Tab; arrows go to the others.
const picture = $("picture");
picture.style.backgroundImage = `url(${data.picture})`;
if (data.side >= 256) picture.style.imageRendering = "auto";
picture.style.gridTemplate = `repeat(${grid}, 1fr) / repeat(${grid}, 1fr)`;
const cells = patches.map((_, i) => {
  const cell = element("button");
  cell.type = "button";
  cell.tabIndex = i ? -1 : 0;
  follow(cell, "patch", i);
  picture.append(cell);
  return cell;
});
picture.addEventListener("keydown", (event) => {
  const i = cells.indexOf(document.activeElement);
  const [y, x] = [Math.floor(i / grid), i % grid];
  const moves = { ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1], ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], Home: [y, 0], End: [y, grid - 1] };
  const to = moves[event.key];
  if (i < 0 || !to || to.some((place) => place < 0 || place >= grid)) return;
  event.preventDefault();
  cells[i].tabIndex = -1;
  const next = cells[to[0] * grid + to[1]];
  next.tabIndex = 0;
  next.focus();
});

const counts = new Map();
for (const patch of patches) counts.set(patch.id, (counts.get(patch.id) ?? 0) + 1);
const codeButtons = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([code, count]) => {
  const node = element("button");
  node.type = "button";
  node.append(tile(code), element("span", ""));
  follow(node, "code", code);
  $("atlas").append(node);
  return { node, code, count };
});
follow($("entropy"), "entropy");
follow($("clip"), "clip");
$("clip").hidden = !data.clip;
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { kept = null; draw(null); } });

function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = say(node.dataset.text);
  $("language").textContent = say("other");
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  picture.setAttribute("aria-label", say("picture"));
  cells.forEach((cell, i) => cell.setAttribute("aria-label", say("patch", ...at(i))));
  for (const { node, code, count } of codeButtons) {
    node.lastChild.textContent = say("times", count);
    node.setAttribute("aria-label", `${say("code", code)} ${say("times", count)}`);
  }
  $("about").textContent = say("about", explanation.model, explanation.method, Number(explanation.log_likelihood ?? NaN).toFixed(1));
  draw(kept);
}
$("language").addEventListener("click", () => { language = language === "zh" ? "en" : "zh"; translate(); });
translate();
document.documentElement.dataset.ready = "true";
