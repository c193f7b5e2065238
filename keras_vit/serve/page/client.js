export const element = (id) => document.getElementById(id);
const model = `v1/models/${document.documentElement.dataset.model}`;

async function ask(url, options) {
  const response = await fetch(url, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Returns the prediction of a signature for a file.
export async function predict(signature, b64) {
  const body = JSON.stringify({ signature_name: signature, instances: [{ b64 }] });
  const headers = { "Content-Type": "application/json" };
  const answer = await ask(`${model}:predict`, { method: "POST", headers, body });
  return answer.predictions[0];
}

// The signatures of the model by name.
export const signatures = ask(`${model}/metadata`).then(
  (answer) => answer.metadata.signature_def.signature_def,
);

export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
