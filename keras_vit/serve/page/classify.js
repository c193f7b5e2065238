import { base64, element, predict, signatures } from "./client.js";
import { drawUpright, unturned } from "./pictures.js";

let latest = 0; // Number of the latest image; responses for earlier ones are ignored.
let shown = null;

// Shows the classes of an image and its attention map.
export async function classify(file) {
  const mine = ++latest;
  element("result").hidden = true;
  element("message").textContent = "Reading …";
  try {
    const known = await signatures;
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
