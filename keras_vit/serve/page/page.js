"use strict";

const WIDEST = 1024; // Largest side of the picture on the page, in pixels.
const element = (id) => document.getElementById(id);
const model = `v1/models/${document.documentElement.dataset.model}`;
let latest = 0; // Number of the latest image; responses for earlier ones are ignored.
let shown = null;

async function ask(url, options) {
  const response = await fetch(url, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function predict(signature, b64) {
  const body = JSON.stringify({ signature_name: signature, instances: [{ b64 }] });
  const headers = { "Content-Type": "application/json" };
  const answer = await ask(`${model}:predict`, { method: "POST", headers, body });
  return answer.predictions[0];
}

const signatures = ask(`${model}/metadata`).then(
  (answer) => answer.metadata.signature_def.signature_def,
);

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function classify(file) {
  const mine = ++latest;
  element("result").hidden = true;
  element("message").textContent = "Reading …";
  try {
    const known = await signatures;
    if (!("predict_bytes" in known)) throw new Error("This model takes no image files.");
    const b64 = await base64(file);
    const prediction = await predict("predict_bytes", b64);
    const attention = "attention" in known ? await predict("attention", b64) : null;
    // Decode the image without its EXIF orientation. `draw` applies the orientation that
    // the model reports, because exports may ignore EXIF. The picture is null if the
    // browser does not support the format.
    const picture = await createImageBitmap(await unturned(file)).catch(() => null);
    if (mine !== latest) return;
    shown = { picture, attention };
    showBars(prediction);
    draw();
    element("attention").hidden = !attention || !picture;
    element("message").textContent = file.name;
    element("result").hidden = false;
  } catch (error) {
    if (mine === latest) element("message").textContent = error.message;
  }
}

function showBars({ labels, scores, probabilities }) {
  const rows = labels.map((label, i) => {
    const row = document.createElement("li");
    const text = document.createElement("div");
    const name = document.createElement("span");
    name.textContent = label;
    const percent = document.createElement("span");
    text.append(name, percent);
    row.append(text);
    if (probabilities === undefined) {
      percent.textContent = scores[i].toPrecision(4);
      return row;
    }
    percent.textContent = `${(100 * scores[i]).toFixed(1)} %`;
    const bar = document.createElement("meter");
    bar.value = scores[i];
    bar.setAttribute("aria-label", label);
    row.append(bar);
    return row;
  });
  element("bars").replaceChildren(...rows);
}

// Returns the part of the image that the model sees: [left, top, width, height].
function seen(width, height, rows, columns, fraction) {
  if (!fraction) return [0, 0, width, height];
  const patch = fraction * Math.min(width / columns, height / rows);
  const [w, h] = [patch * columns, patch * rows];
  return [(width - w) / 2, (height - h) / 2, w, h];
}

// Returns the file with its EXIF orientation set to 1, because browsers apply it to images
// of some formats only.
async function unturned(file) {
  const bytes = await file.arrayBuffer();
  const view = new DataView(bytes);
  const text = new TextDecoder("latin1").decode(bytes);
  for (const mark of text.matchAll(/Exif\0\0|eXIf|EXIF[^]{4}/g)) {
    const tiff = mark.index + mark[0].length;
    const little = text.startsWith("II*\0", tiff);
    if (!little && !text.startsWith("MM\0*", tiff)) continue;
    try {
      const directory = tiff + view.getUint32(tiff + 4, little);
      for (let i = 0; i < view.getUint16(directory, little); i++) {
        const entry = directory + 2 + 12 * i;
        if (view.getUint16(entry, little) !== 0x112) continue;
        if (view.getUint16(entry + 2, little) === 4) view.setUint32(entry + 8, 1, little);
        else view.setUint16(entry + 8, 1, little);
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // The EXIF data are damaged.
    }
  }
  return new Blob([bytes], { type: file.type });
}

// Draws a picture on a canvas, rotated and mirrored by an EXIF orientation, 1 to 8.
function drawUpright(picture, orientation, canvas) {
  const turned = orientation >= 5;
  const scale = Math.min(1, WIDEST / Math.max(picture.width, picture.height));
  const sides = [picture.width, picture.height].map((side) =>
    Math.max(1, Math.round(side * scale)));
  [canvas.width, canvas.height] = turned ? sides.toReversed() : sides;
  const context = canvas.getContext("2d");
  if ([2, 3, 6, 7].includes(orientation)) context.transform(-1, 0, 0, 1, canvas.width, 0);
  if ([3, 4, 7, 8].includes(orientation)) context.transform(1, 0, 0, -1, 0, canvas.height);
  if (turned) context.transform(0, 1, 1, 0, 0, 0);
  context.drawImage(picture, 0, 0, ...sides);
  context.resetTransform();
  return context;
}

function draw() {
  const { picture, attention } = shown;
  const canvas = element("picture");
  canvas.hidden = !picture;
  if (!picture) return;
  const context = drawUpright(picture, attention?.orientation ?? 1, canvas);
  if (!attention || !element("show").checked) return;
  const map = attention.attention;
  const [rows, columns] = [map.length, map[0].length];
  const most = Math.max(...map.flat());
  const shade = new ImageData(columns, rows);
  map.flat().forEach((share, i) => { shade.data[4 * i + 3] = 200 * (1 - share / most); });
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(shade, 0, 0);
  const fraction = attention.crop_fraction;
  const [x, y, w, h] = seen(canvas.width, canvas.height, rows, columns, fraction);
  context.fillStyle = "rgb(0 0 0 / 80%)"; // Darken what the model does not see.
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(x, y, w, h);
  context.fill("evenodd");
  context.drawImage(small, x, y, w, h);
}

element("show").addEventListener("change", draw);
element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) classify(file);
  event.target.value = ""; // Allow choosing the same file again.
});
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
document.addEventListener("dragover", () => element("drop").classList.add("over"));
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  element("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) classify(file);
});
