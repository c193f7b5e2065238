import { base64, element, predict } from "./client.js";

const SIDE = 256; // Largest side of a thumbnail, in pixels.
const images = []; // The images that were dropped, each with its features.
let compared = null; // The image that all others are compared with.
let queue = Promise.resolve(); // Files are read one after another.

// Adds images to the grid, and compares all images with the last of them.
export function compare(files) {
  queue = queue.then(() => read(files));
  return queue;
}

async function read(files) {
  const refused = [];
  for (const [i, file] of files.entries()) {
    say(`Reading ${i + 1} of ${files.length} …`);
    try {
      const { pooled } = await predict("embed", await base64(file));
      const [direction, canvas] = [unit(pooled), await thumbnail(file)];
      compared = { name: file.name, direction, canvas };
      images.push(compared);
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
  }
  if (compared) showGrid();
  if (refused.length) say(refused.join(" "));
}

function say(text) {
  element("message").textContent = text;
}

// Returns a vector divided by its length.
function unit(values) {
  const length = Math.hypot(...values) || 1;
  return values.map((value) => value / length);
}

// Returns a small canvas with the picture, empty if the browser does not know the format.
async function thumbnail(file) {
  const canvas = document.createElement("canvas");
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return canvas;
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Shows all images, the most similar first, with the cosine similarity of their features.
function showGrid() {
  const rows = images.map((image) => ({ image, cosine: cosine(image, compared) }));
  const isFirst = ({ image }) => image === compared;
  rows.sort((a, b) => isFirst(b) - isFirst(a) || b.cosine - a.cosine);
  element("grid").replaceChildren(...rows.map(cell));
  element("neighbors").hidden = false;
  say(images.length === 1 ? "Drop more images to compare them with this one."
    : `Most similar to ${compared.name} first. Choose another to compare all with it.`);
}

function cosine(a, b) {
  return a.direction.reduce((sum, value, i) => sum + value * b.direction[i], 0);
}

function cell({ image, cosine }) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", image === compared);
  const name = document.createElement("span");
  name.textContent = image.name;
  const similarity = document.createElement("strong");
  similarity.textContent = image === compared ? "compared" : cosine.toFixed(3);
  button.append(image.canvas, name, similarity);
  button.addEventListener("click", () => {
    compared = image;
    showGrid();
    element("grid").querySelector("button").focus();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}
