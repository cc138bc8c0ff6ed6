// The provenance of an image (kind, position, window) as text.
import { hasText, t } from "./texts.js";

const SLICED = new Set(["CT", "MR", "PT", "NM"]);
const round = (number) => String(Math.round(number * 10) / 10);

export function windowText(image) {
  if (!image.window) return "";
  const name = hasText(`window_${image.window}`) ? t(`window_${image.window}`) : image.window;
  return t("window_is", image.center === undefined ? name : `${name} ${round(image.center)}/${round(image.width)}`);
}

export function positionText(image) {
  return image.total > 1 ? t(image.kind === "volume" || SLICED.has(image.modality) ? "slice_of" : "frame_of", image.index, image.total) : "";
}

export function provenanceText(image) {
  const series = image.series === undefined ? "" : t("series_n", image.series_number ?? image.series);
  const parts = [image.modality, image.body_part, image.view, image.laterality, series, positionText(image), windowText(image)];
  return [...parts, `${image.columns} × ${image.rows}`].filter(Boolean).join(" · ");
}
