import { classify } from "./classify.js";
import { element, signatures } from "./client.js";
import { compare } from "./neighbors.js";

// Shows what the model makes of files: the classes of the first, or all as neighbors.
async function show(files) {
  if (!files.length) return;
  try {
    const known = await signatures;
    if ("predict_bytes" in known) await classify(files[0]);
    else if ("embed" in known) await compare(files);
    else throw new Error(unsupported(known));
  } catch (error) {
    element("message").textContent = error.message;
  }
}

function unsupported(known) {
  if (!("features_bytes" in known)) return "This model takes no image files.";
  return "This model does not pool its features, which this page would compare.";
}

signatures.then((known) => {
  if (!("embed" in known)) return;
  element("file").multiple = true;
  element("prompt").textContent = "Drop images here to compare them, or choose some";
}, () => {}); // The error is shown when an image is dropped.

element("file").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // Allow choosing the same file again.
  show(files);
});
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
document.addEventListener("dragover", () => element("drop").classList.add("over"));
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  element("drop").classList.remove("over");
  show([...event.dataTransfer.files]);
});
