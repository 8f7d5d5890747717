// What the page says, in two languages. A word that is missing in one is a bug: the test of the page compares the keys.

export const words = {
  en: {
    skip: "Skip to content", views: "Views", draw: "Draw", edit: "Edit", gallery: "Gallery", theme: "Dark or light",
    drawTitle: "What do you want to see?", prompt: "Prompt", promptHint: "two red cats on a blue background",
    history: "Earlier prompts", count: "Pictures", seed: "Seed", seedOf: "Seed {0}", lock: "Keep the seed", guidance: "Guidance",
    more: "More settings", model: "Model", negative: "Negative prompt", bestOf: "Best of", temperature: "Temperature", order: "Order",
    ownOrder: "the model's own", raster: "row by row: best", parallel16: "16 passes: faster",
    parallel8: "8 passes: fastest, rougher", go: "Draw",
    dropHint: "Drop a picture anywhere to get its settings back; paste one to edit it.",
    editTitle: "Edit a picture", open: "Open a picture…", tool: "Tool", brush: "Brush", eraser: "Eraser", box: "Box",
    outpaint: "Extend", damaged: "Repair", brushSize: "Size of the brush", sides: "New pixels on each side", left: "Left",
    top: "Top", right: "Right", bottom: "Bottom",
    damagedHint: "Scratches and holes of one colour are detected and redrawn.", undo: "Undo", invert: "Invert",
    clear: "Clear", editPrompt: "What the whole picture shows (optional)", editGo: "Redraw",
    editEmpty: "Open, drop or paste a picture, or choose one from the gallery.",
    maskLabel: "Mask: paint what to redraw", compare: "Before and after", search: "Search by words",
    favourites: "Favourites", select: "Select", loadMore: "Show more", reuse: "Use these settings", vary: "Variations",
    similar: "Find similar", describe: "Describe", download: "Download", copyCommand: "Copy as command",
    copyCurl: "Copy as curl", remove: "Delete", close: "Close", keyTitle: "This server needs an API key", key: "API key",
    keyGo: "Continue", drop: "Drop the picture",
    queued: "waiting, {0} before it", running: "drawing, {0} %", done: "done", failed: "failed", cancelled: "cancelled",
    cancel: "Cancel", again: "Again", favourite: "Favourite", unfavourite: "Remove from favourites", deleteMany: "Delete {0}",
    deleted: "{0} deleted", copied: "Copied", restored: "Settings restored", noSettings: "No settings in this picture; it is open for editing",
    nothingYet: "Nothing yet. Say what you want to see, and press Draw.", nothingFound: "Nothing found.",
    noPictures: "No pictures yet.", size: "Size", by: "Kind", likelihood: "Log-likelihood", score: "CLIP score",
    made: "Created", waitingPicture: "A picture is being drawn", nothingMasked: "First paint what to redraw.",
    offline: "The server does not answer.", variationsOf: "Variations", editOf: "Edit", generate: "drawn", similarTo: "Similar pictures",
  },
  zh: {
    skip: "跳到内容", views: "视图", draw: "绘画", edit: "编辑", gallery: "画廊", theme: "深色或浅色",
    drawTitle: "想画什么？", prompt: "描述", promptHint: "蓝色背景上的两只红色的猫",
    history: "以前的描述", count: "张数", seed: "种子", seedOf: "种子 {0}", lock: "保持种子", guidance: "引导强度",
    more: "更多设置", model: "模型", negative: "反向提示词", bestOf: "择优", temperature: "温度", order: "顺序",
    ownOrder: "模型默认", raster: "逐行：最好", parallel16: "16 步：较快", parallel8: "8 步：最快，较粗糙", go: "开始绘画",
    dropHint: "把图片拖到任意位置可恢复其设置；粘贴图片可编辑。",
    editTitle: "修改图片", open: "打开图片…", tool: "工具", brush: "画笔", eraser: "橡皮", box: "方框",
    outpaint: "扩展", damaged: "修复", brushSize: "画笔大小", sides: "每边新增的像素", left: "左",
    top: "上", right: "右", bottom: "下",
    damagedHint: "自动找到单色的划痕和破洞并重新绘制。", undo: "撤销", invert: "反选",
    clear: "清除", editPrompt: "整张图片的内容（可选）", editGo: "重新绘制",
    editEmpty: "打开、拖入或粘贴一张图片，或从画廊中选择。",
    maskLabel: "遮罩：涂抹要重新绘制的部分", compare: "前后对比", search: "用文字搜索",
    favourites: "收藏", select: "选择", loadMore: "显示更多", reuse: "使用这些设置", vary: "变体",
    similar: "查找相似", describe: "描述图片", download: "下载", copyCommand: "复制为命令",
    copyCurl: "复制为 curl", remove: "删除", close: "关闭", keyTitle: "此服务器需要 API 密钥", key: "API 密钥",
    keyGo: "继续", drop: "松开以放下图片",
    queued: "等待中，前面还有 {0} 个", running: "绘制中，{0} %", done: "完成", failed: "失败", cancelled: "已取消",
    cancel: "取消", again: "重来", favourite: "收藏", unfavourite: "取消收藏", deleteMany: "删除 {0} 张",
    deleted: "已删除 {0} 张", copied: "已复制", restored: "设置已恢复", noSettings: "图片中没有设置；已打开供编辑",
    nothingYet: "还没有图片。写下想看的内容，然后开始绘画。", nothingFound: "没有找到。",
    noPictures: "还没有图片。", size: "尺寸", by: "类型", likelihood: "对数似然", score: "CLIP 分数",
    made: "时间", waitingPicture: "正在绘制图片", nothingMasked: "请先涂抹要重新绘制的部分。",
    offline: "服务器没有响应。", variationsOf: "变体", editOf: "编辑", generate: "绘制", similarTo: "相似的图片",
  },
};

let language = "en";

export const current = () => language;

/** A word, with {0} replaced. */
export function word(name, ...values) {
  const text = words[language][name] ?? words.en[name] ?? name;
  return text.replace(/\{(\d)\}/g, (_, number) => String(values[number]));
}

/** Gives an element a word, which it has in any language that is chosen later. */
export function put(element, name, ...values) {
  element.dataset.text = name;
  element.dataset.values = JSON.stringify(values);
  element.textContent = word(name, ...values);
  return element;
}

/** Says everything in a language. */
export function speak(chosen) {
  language = chosen === "zh" ? "zh" : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = word(element.dataset.text, ...JSON.parse(element.dataset.values ?? "[]"));
  }
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", word(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = word(element.dataset.placeholder);
}
