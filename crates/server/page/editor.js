// The editor: a picture, a mask over it, and what came of it.

import { $, address, call, encoded, make, toast, watch } from "./api.js";
import { tile } from "./gallery.js";
import { put, word } from "./words.js";

/** What is edited: a picture of the gallery, or a file in base64. */
let source = null;
let strokes = [];
let drawing = null;
const picture = $("canvas-picture");
const mask = $("canvas-mask");

export function start() {
  $("upload").addEventListener("change", () => { if ($("upload").files[0]) openFile($("upload").files[0]); });
  for (const input of document.querySelectorAll("[name=tool]")) input.addEventListener("change", showTool);
  $("brush-size").addEventListener("input", () => { $("brush-size-value").textContent = $("brush-size").value; });
  $("brush-size").dispatchEvent(new Event("input"));
  $("undo").addEventListener("click", () => { strokes.pop(); paint(); });
  $("clear").addEventListener("click", () => { strokes = []; paint(); });
  $("invert").addEventListener("click", () => { strokes.push({ kind: "invert" }); paint(); });
  for (const side of ["left", "top", "right", "bottom"]) $(`side-${side}`).addEventListener("input", paint);
  mask.addEventListener("pointerdown", down);
  mask.addEventListener("pointermove", moved);
  mask.addEventListener("pointerup", up);
  mask.addEventListener("pointercancel", up);
  mask.addEventListener("keydown", key);
  $("edit-form").addEventListener("submit", (event) => { event.preventDefault(); submit().catch((error) => toast(error.message)); });
  $("compare-slider").addEventListener("input", () => $("compare-after").style.setProperty("--cut", `${$("compare-slider").value}%`));
}

const tool = () => document.querySelector("[name=tool]:checked").value;

function showTool() {
  $("sides").hidden = tool() !== "outpaint";
  $("damaged-note").hidden = tool() !== "damaged";
  $("brush-field").hidden = !["brush", "eraser"].includes(tool());
  $("mask-buttons").hidden = ["outpaint", "damaged"].includes(tool());
  paint();
}

/** Opens a file. */
export async function openFile(file) {
  await show(URL.createObjectURL(file), async () => ({ image: await encoded(file) }));
}

/** Opens a picture of the gallery. */
export async function openPicture(chosen) {
  if (await show(address(chosen), () => ({ picture: chosen.id }))) $("edit-prompt").value = chosen.prompt;
}

let newest = null;
/** Shows a picture and keeps what requests call it, unless another was opened while this one was read. */
async function show(url, naming) {
  const image = new Image();
  newest = image;
  image.src = url;
  await image.decode();
  const named = await naming();
  if (newest !== image) return false;
  source = named;
  picture.width = mask.width = image.naturalWidth;
  picture.height = mask.height = image.naturalHeight;
  picture.getContext("2d").drawImage(image, 0, 0);
  // Small pictures are enlarged by whole numbers, so that their pixels stay squares.
  const times = Math.max(1, Math.floor(Math.min(480 / picture.width, 480 / picture.height)));
  picture.style.width = `${picture.width * times}px`;
  picture.style.imageRendering = times > 1 ? "pixelated" : "auto";
  $("brush-size").max = Math.max(20, Math.round(picture.width / 3));
  $("brush-size").value = Math.max(3, Math.round(picture.width / 5));
  $("brush-size").dispatchEvent(new Event("input"));
  strokes = [];
  $("easel").classList.remove("empty");
  $("frame").hidden = false;
  $("edit-go").disabled = false;
  $("compare").hidden = true;
  showTool();
  return true;
}

function place(event) {
  const box = mask.getBoundingClientRect();
  return [(event.clientX - box.left) * mask.width / box.width, (event.clientY - box.top) * mask.height / box.height];
}

function down(event) {
  if (["outpaint", "damaged"].includes(tool())) return;
  mask.setPointerCapture(event.pointerId);
  drawing = { kind: tool(), size: Number($("brush-size").value), points: [place(event)] };
  strokes.push(drawing);
  paint();
  event.preventDefault();
}

function moved(event) {
  if (!drawing) return;
  if (drawing.kind === "box") drawing.points[1] = place(event);
  else drawing.points.push(place(event));
  paint();
}

function up() { drawing = null; }

/** With the keyboard a box is moved (arrows) and resized (with shift). */
function key(event) {
  const by = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) { strokes.pop(); paint(); event.preventDefault(); }
  if (!by) return;
  event.preventDefault();
  let box = strokes.at(-1);
  if (box?.kind !== "box") {
    box = { kind: "box", points: [[mask.width / 4, mask.height / 4], [mask.width * 3 / 4, mask.height * 3 / 4]] };
    strokes.push(box);
  } else {
    const step = Math.max(1, Math.round(mask.width / 32));
    const ends = event.shiftKey ? [1] : [0, 1];
    for (const end of ends) {
      box.points[end] = [box.points[end][0] + by[0] * step, box.points[end][1] + by[1] * step];
    }
  }
  paint();
}

/** Draws all strokes onto a canvas: what is drawn anew is opaque. */
function paintOn(context, colour) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  for (const stroke of strokes) {
    context.globalCompositeOperation = stroke.kind === "eraser" ? "destination-out" : "source-over";
    context.fillStyle = context.strokeStyle = colour;
    if (stroke.kind === "invert") {
      context.globalCompositeOperation = "xor";
      context.fillRect(0, 0, width, height);
    } else if (stroke.kind === "box") {
      const [[x, y], [right, bottom]] = [stroke.points[0], stroke.points[1] ?? stroke.points[0]];
      context.fillRect(Math.round(Math.min(x, right)), Math.round(Math.min(y, bottom)), Math.round(Math.abs(right - x)), Math.round(Math.abs(bottom - y)));
    } else {
      context.lineWidth = stroke.size;
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      context.moveTo(...stroke.points[0]);
      for (const point of stroke.points) context.lineTo(...point);
      context.stroke();
    }
  }
  context.globalCompositeOperation = "source-over";
}

function paint() {
  paintOn(mask.getContext("2d"), getComputedStyle(document.documentElement).getPropertyValue("--hole"));
  mask.style.visibility = ["outpaint", "damaged"].includes(tool()) ? "hidden" : "visible";
  const sides = tool() === "outpaint" ? sidesOf() : { left: 0, top: 0, right: 0, bottom: 0 };
  const times = picture.getBoundingClientRect().width / picture.width || 1;
  $("frame").style.border = "0 dashed var(--hole)";
  for (const side of Object.keys(sides)) $("frame").style.setProperty(`border-${side}-width`, `${sides[side] * times}px`);
}

function sidesOf() {
  const value = (side) => Math.max(0, Math.round(Number($(`side-${side}`).value) || 0));
  return { left: value("left"), top: value("top"), right: value("right"), bottom: value("bottom") };
}

/** The mask as a picture: white is drawn anew; none where nothing is painted. */
async function maskFile() {
  const whole = new OffscreenCanvas(mask.width, mask.height);
  const context = whole.getContext("2d");
  paintOn(context, "#fff");
  const pixels = context.getImageData(0, 0, whole.width, whole.height);
  let any = false;
  // No half-transparent rims: a pixel is drawn or it is not.
  for (let at = 0; at < pixels.data.length; at += 4) {
    const drawn = pixels.data[at + 3] >= 128;
    any ||= drawn;
    pixels.data.fill(drawn ? 255 : 0, at, at + 3);
    pixels.data[at + 3] = 255;
  }
  if (!any) return null;
  context.putImageData(pixels, 0, 0);
  return encoded(await whole.convertToBlob({ type: "image/png" }));
}

async function submit() {
  if (!source) return;
  const body = { kind: "edit", ...source, n: Number($("edit-n").value) };
  if ($("edit-prompt").value.trim()) body.prompt = $("edit-prompt").value.trim();
  if ($("edit-seed").value) body.seed = $("edit-seed").value;
  if (tool() === "outpaint") body.outpaint = sidesOf();
  else if (tool() === "damaged") body.damaged = true;
  else {
    body.mask = await maskFile();
    if (!body.mask) { toast(word("nothingMasked")); return; }
  }
  const job = await call("POST", "/api/jobs", body);
  const bar = make("progress", { max: 1, value: 0, ariaLabel: word("running", 0) });
  const cancel = make("button", { type: "button", onclick: () => call("POST", `/api/jobs/${job.id}/cancel`) });
  put(cancel, "cancel");
  const tiles = make("div", { className: "tiles" });
  const card = make("div", { className: "job" }, make("div", { className: "job-head" }, put(make("h3"), "editOf"), cancel), bar, tiles);
  $("edit-results").prepend(card);
  const before = picture.toDataURL();
  const made = [];
  await watch(job.id, (name, data) => {
    if (name === "progress") bar.value = data.progress;
    if (name === "picture") {
      made.push(data);
      tiles.append(tile(data, made));
      if (made.length === 1 && tool() !== "outpaint") compare(before, data);
    }
    if (name === "job") {
      bar.remove();
      cancel.remove();
      if (data.status !== "done") tiles.append(make("p", { className: "failure" }, data.error?.message ?? word(data.status)));
    }
  });
}

function compare(before, after) {
  $("compare-before").src = before;
  $("compare-after").src = address(after);
  for (const id of ["compare-before", "compare-after"]) $(id).className = after.width < 200 ? "small" : "";
  $("compare").hidden = false;
}
