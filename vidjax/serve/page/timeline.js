// Scores over time as curves, segments as bars below them, and a playhead in step with what plays.

import {clock, make, percent} from "./labels.js";

export const HUES = ["hue0", "hue1", "hue2", "hue3", "hue4", "hue5"];
const SVG = "http://www.w3.org/2000/svg";

// The classes worth a curve: those with the highest peaks, in the order of their peaks.
export function peaks(windows, most = HUES.length) {
  const best = new Map();
  for (const {top} of windows) for (const {label, score} of top) best.set(label, Math.max(best.get(label) ?? 0, score));
  return [...best].sort((a, b) => b[1] - a[1]).slice(0, most).map(pair => pair[0]);
}

// Marks of an axis from a to b that are easy to read: [seconds].
export function marks(a, b, most) {
  const rough = (b - a) / most;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(x => x * ten).find(x => x >= rough);
  const found = [];
  for (let k = Math.ceil(a / step - 1e-9); k * step <= b + 1e-9; k++) found.push(k * step);
  return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
}

// A plot of curves [{label, hue, points: [[seconds, share]]}] between two times, in a box of class `times`.
export class Timeline {
  constructor(box, seek) {
    this.box = box;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", "0 0 1 1");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.needle = make("div", {className: "needle"});
    this.plot = make("div", {className: "plot"}, this.svg);
    this.ticks = make("div");
    this.tracks = make("div", {className: "tracks"});
    box.append(this.plot, this.tracks, this.needle);
    this.plot.append(this.ticks);
    this.range = [0, 1];
    if (seek) this.listen(seek);
    else this.needle.remove();
  }

  // Draws curves and the axis; `say(seconds)` is the axis's text.
  draw(range, curves, say = null) {
    this.range = range;
    const [a, b] = range, x = t => ((t - a) / (b - a)).toFixed(5);
    this.svg.replaceChildren(
      ...[0, .5, 1].map(y => this.shape("line", "grid", {x1: 0, x2: 1, y1: 1 - y, y2: 1 - y})),
      ...curves.map(({hue, points}) => this.shape("path", hue, {
        d: points.map(([t, y], i) => `${i ? "L" : "M"}${x(t)} ${(1 - y).toFixed(4)}`).join("") || "M0 1",
      })),
    );
    const [seconds, digits] = marks(a, b, Math.max(2, this.plot.clientWidth / 90));
    const up = [0, .5, 1].map(y => this.tick("up", "bottom", y, `${100 * y} %`));
    const across = seconds.map(t => this.tick("across", "left", x(t), say ? say(t) : `${t.toFixed(digits)} s`));
    this.ticks.replaceChildren(...up, ...across);
  }

  shape(name, classes, attributes) {
    const element = document.createElementNS(SVG, name);
    element.setAttribute("class", classes);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  tick(kind, side, share, text) {
    const end = kind === "across" && share > .97 ? " end" : kind === "across" && share < .01 ? " first" : "";
    const element = make("span", {className: `tick ${kind}${end}`, textContent: text});
    element.style[side] = `${100 * share}%`;
    return element;
  }

  // Rows of segments, a class each, that are buttons: `go(seconds)` goes to where one begins.
  rows(segments, hue, go) {
    const [a, b] = this.range, classes = new Map();
    for (const one of segments) classes.set(one.label, [...(classes.get(one.label) ?? []), one]);
    this.tracks.replaceChildren(...[...classes].map(([label, found]) => make(
      "div", {className: "track"}, make("p", {textContent: label}),
      make("div", {className: `line ${hue(label)}`}, ...found.map(one => {
        const said = `${label}, ${clock(one.start)} to ${clock(one.end)}, ${percent(one.score)}`;
        const piece = make("button", {type: "button", className: "piece", title: said, ariaLabel: said});
        piece.style.left = `${100 * (one.start - a) / (b - a)}%`;
        piece.style.width = `${100 * (one.end - one.start) / (b - a)}%`;
        piece.addEventListener("click", () => go(one.start));
        return piece;
      })),
    )));
    if (!segments.length) this.tracks.append(make("p", {className: "note", textContent: "No segment: no class has the share that one needs."}));
  }

  // Moves the playhead, and says of it what stands there.
  now(seconds, said = "") {
    const [a, b] = this.range, share = Math.min(1, Math.max(0, (seconds - a) / (b - a)));
    this.at = Math.min(b, Math.max(a, seconds));
    this.needle.style.left = `${100 * share}%`;
    this.plot.ariaValueNow = this.at.toFixed(2);
    this.plot.ariaValueMin = a;
    this.plot.ariaValueMax = b.toFixed(2);
    this.plot.ariaValueText = `${clock(this.at)}${said && `: ${said}`}`;
  }

  // Pointer and keys go to a time.
  listen(seek) {
    Object.assign(this.plot, {tabIndex: 0, role: "slider", ariaLabel: "Time in the video"});
    this.now(0);
    const there = event => {
      const {left, width} = this.plot.getBoundingClientRect();
      const [a, b] = this.range;
      seek(a + Math.min(1, Math.max(0, (event.clientX - left) / width)) * (b - a));
    };
    this.plot.addEventListener("pointerdown", event => {
      if (event.button) return;
      this.plot.setPointerCapture(event.pointerId);
      there(event);
    });
    this.plot.addEventListener("pointermove", event => {
      if (this.plot.hasPointerCapture(event.pointerId)) there(event);
    });
    this.plot.addEventListener("keydown", event => {
      const [a, b] = this.range, step = event.shiftKey ? (b - a) / 10 : Math.min(.5, (b - a) / 40);
      const to = {ArrowLeft: this.at - step, ArrowDown: this.at - step, ArrowRight: this.at + step,
        ArrowUp: this.at + step, PageDown: this.at - (b - a) / 10, PageUp: this.at + (b - a) / 10, Home: a, End: b}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      seek(Math.min(b, Math.max(a, to)));
    });
  }
}
