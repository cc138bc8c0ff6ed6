// What the server tells of an image (its kind, place and window) as words.
import { known, t } from "./words.js";

const SLICED = new Set(["CT", "MR", "PT", "NM"]);
const short = (number) => String(Math.round(number * 10) / 10);

export function windowWords(seen) {
  if (!seen.window) return "";
  const name = known(`window_${seen.window}`) ? t(`window_${seen.window}`) : seen.window;
  return t("window_is", seen.center === undefined ? name : `${name} ${short(seen.center)}/${short(seen.width)}`);
}

export function placeWords(seen) {
  return seen.total > 1 ? t(seen.kind === "volume" || SLICED.has(seen.modality) ? "slice_of" : "frame_of", seen.index, seen.total) : "";
}

export function seenWords(seen) {
  const series = seen.series === undefined ? "" : t("series_n", seen.series_number ?? seen.series);
  const facts = [seen.modality, seen.body_part, seen.view, seen.laterality, series, placeWords(seen), windowWords(seen)];
  return [...facts, `${seen.columns} × ${seen.rows}`].filter(Boolean).join(" · ");
}
