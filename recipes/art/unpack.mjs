// Lays a package's pictures out by code point: unpack.mjs PACKAGE PICTURES
// Only single code points of the pictographic blocks, as the world's catalogue has them.
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";

const [from, to] = process.argv.slice(2);
mkdirSync(to, { recursive: true });

const within = (code, ranges) => ranges.some(([first, last]) => code >= first && code <= last);
const pictographic = [
  [0x231a, 0x231b], [0x23f0, 0x23f3], [0x2600, 0x27bf], [0x2b50, 0x2b50], [0x1f300, 0x1f64f],
  [0x1f680, 0x1f6ff], [0x1f900, 0x1f9ff], [0x1fa70, 0x1faff],
];
const symbols = [
  [0x2648, 0x2653], [0x1f3fb, 0x1f3ff], [0x1f500, 0x1f506], [0x1f518, 0x1f524], [0x1f530, 0x1f549],
  [0x1f54e, 0x1f54e], [0x1f550, 0x1f567], [0x1f6c2, 0x1f6c5],
];

// "2602-fe0f" is U+2602 shown as a picture; sequences of several are no things.
function codePoint(name) {
  const parts = name.toLowerCase().split("-").filter((part) => part !== "fe0f");
  const code = parts.length === 1 ? parseInt(parts[0], 16) : NaN;
  return within(code, pictographic) && !within(code, symbols) ? code.toString(16) : undefined;
}

const read = (file) => JSON.parse(readFileSync(`${from}/${file}`, "utf8"));
if (existsSync(`${from}/assets`)) {
  for (const file of readdirSync(`${from}/assets`)) {
    const [, name, extension] = file.match(/^([0-9a-f-]+)\.(svg|webp)$/) ?? [];
    const code = name && codePoint(name);
    if (code) copyFileSync(`${from}/assets/${file}`, `${to}/${code}.${extension}`);
  }
} else {
  // Iconify's JSON: bodies of SVGs, some of them under another's name.
  const { icons, aliases = {}, width: allWidth = 16, height: allHeight = 16 } = read("icons.json");
  for (const [sequence, name] of Object.entries(read("chars.json"))) {
    const code = codePoint(sequence);
    if (!code) continue;
    const alias = aliases[name];
    if (alias && (alias.rotate || alias.hFlip || alias.vFlip)) continue;
    const icon = icons[alias ? alias.parent : name];
    if (!icon) continue;
    const { width = allWidth, height = allHeight, left = 0, top = 0, body } = { ...icon, ...alias };
    const box = `${left} ${top} ${width} ${height}`;
    const svg =
      `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
      `width="${width}" height="${height}" viewBox="${box}">${body.replaceAll("currentColor", "#000")}</svg>`;
    writeFileSync(`${to}/${code}.svg`, svg);
  }
}
