const WIDEST = 1024; // Largest side of the picture on the page, in pixels.

// Returns the file with its EXIF orientation set to 1, because browsers apply it to images
// of some formats only.
export async function unturned(file) {
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
export function drawUpright(picture, orientation, canvas) {
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
