// What counted for a class: the map over the video, in step with it, or the net's clip beside it.

import {save, send} from "./asking.js";
import {clock, percent} from "./labels.js";

const at = id => document.getElementById(id);
const form = at("question"), over = at("over"), clip = at("clip"), video = at("video"), screen = at("screen");
let shown = null;  // {facts, sheet or null}
let asked = null;  // {file, query, name} of what is shown
let busy = () => {};

// Makes the questions of a model's answer; `run(work)` runs async work(tell, signal) and shows how far it is.
export function begin(model, state, run) {
  busy = run;
  at("why").hidden = !Object.keys(model.methods).length;
  form.elements.method.replaceChildren(...Object.keys(model.methods).map(name => new Option(name)));
  const explain = () => { at("method").textContent = `${form.elements.method.value}: ${model.methods[form.elements.method.value]}.`; };
  form.elements.method.addEventListener("change", explain);
  if (!at("why").hidden) explain();
  form.addEventListener("submit", event => { event.preventDefault(); ask(state()); });
  form.elements.place.addEventListener("change", () => shown && ask(state()));
  at("hide").addEventListener("click", clear);
  at("strength").firstElementChild.addEventListener("input", paint);
  for (const button of document.querySelectorAll("[data-form]")) {
    button.addEventListener("click", () => busy("Drawing", async (tell, signal) => {
      const {blob} = await send("/api/explain", asked.file, {...asked.query, format: button.dataset.form}, tell, signal);
      save(blob, `${asked.name}_${asked.query.method}.${button.dataset.form}`);
    }));
  }
}

// Offers the classes of a new video, its best first, and forgets the last one's map.
export function offer(model, labels) {
  const best = labels.top.map(one => one.label).slice(0, 5);
  const rest = model.classes.filter(name => !best.includes(name));
  form.elements.class.replaceChildren(new Option("the best", ""), ...[...best, ...rest].map(name => new Option(name, name)));
  clear();
}

// Asks for the map of what the form says.
function ask({file, labels, options, window, playable}) {
  const beside = form.elements.place.value === "beside" || !playable;
  const query = {method: form.elements.method.value, class: form.elements.class.value, stride: options.stride ?? "",
    length: options.window ?? ""};
  if (form.elements.window.value === "here") query.window = window;
  return busy("Looking at what counted", async (tell, signal) => {
    const {blob, facts} = await send("/api/explain", file, {...query, format: beside ? "mp4" : "sheet"}, tell, signal);
    clear();
    asked = {file, query: {...query, class: facts.label, window: facts.window}, name: labels.path.replace(/\.[^.]*$/, "")};
    const said = `${facts.label} ${percent(facts.score)} in window ${facts.window}, ${clock(facts.start)} to ${clock(facts.end)}, by ${facts.method}.`;
    at("found-what").textContent = said;
    shown = {facts, sheet: beside ? null : await createImageBitmap(blob)};
    if (beside) {
      clip.src = URL.createObjectURL(blob);
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) clip.play().catch(() => {});
    } else if (video.currentTime < facts.start || video.currentTime >= facts.end) {
      video.currentTime = facts.start;
    }
    at("beside").hidden = !beside;
    at("strength").hidden = beside;
    at("found").hidden = false;
    paint();
    at("pair").scrollIntoView({block: "nearest"});
    return said;
  });
}

// Forgets the map that is shown.
export function clear() {
  shown?.sheet?.close();
  if (clip.src) URL.revokeObjectURL(clip.src);
  clip.removeAttribute("src");
  shown = asked = null;
  at("found").hidden = at("beside").hidden = true;
  paint();
}

// Paints the map's frame of the moment over the part of the video that the net sees.
export function paint() {
  const inside = shown?.sheet && video.currentTime >= shown.facts.start - 1e-3 && video.currentTime < shown.facts.end + 1e-3;
  over.hidden = !inside;
  if (!inside) return;
  const {facts: {start, end, frames, box: [left, top, wide, tall]}, sheet} = shown;
  const height = sheet.height / frames;
  const k = Math.min(frames - 1, Math.max(0, Math.floor((video.currentTime - start) / (end - start) * frames + 1e-3)));
  const ratio = devicePixelRatio || 1, {clientWidth, clientHeight} = screen;
  over.width = Math.round(clientWidth * ratio);
  over.height = Math.round(clientHeight * ratio);
  const pen = over.getContext("2d");
  pen.globalAlpha = at("strength").firstElementChild.value / 100;
  const place = [left * over.width, top * over.height, wide * over.width, tall * over.height];
  pen.drawImage(sheet, 0, k * height, sheet.width, height, ...place);
  pen.globalAlpha = 1;
  pen.strokeStyle = "rgb(255 255 255 / .8)";
  pen.lineWidth = ratio;
  pen.strokeRect(...place);
}
