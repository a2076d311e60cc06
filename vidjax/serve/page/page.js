// The page's states: empty, at work, a video's labels, a camera's; what goes wrong is one sentence.

import {get, save, send} from "./asking.js";
import {open} from "./camera.js";
import {bars, clock, legend, percent} from "./labels.js";
import {HUES, Timeline, peaks} from "./timeline.js";
import * as why from "./why.js";

const TOP = 40;  // classes of a window that are asked for: a curve is 0 where its class is not among them
const at = id => document.getElementById(id);
const video = at("video"), screen = at("screen"), timeline = new Timeline(at("times"), seek);
let model = null, labels = null, file = null, options = {}, used = {};  // used: the options of the labels that are shown
let now = 0, playable = false, giveUp = null, endCamera = null, hues = new Map();

function show(id, on) { at(id).hidden = !on; }

function fail(sentence) {
  at("failed").textContent = sentence;
  show("failed", Boolean(sentence));
  if (sentence) at("failed").scrollIntoView({block: "nearest"});
}

// Runs async work(tell, signal) with its progress shown; what it returns is told to those who listen.
async function run(what, work) {
  giveUp?.abort();
  const mine = giveUp = new AbortController();
  fail("");
  show("busy", true);
  const tell = (state, share, done, of) => {
    if (mine !== giveUp) return;
    const full = share === null ? "" : ` ${Math.round(100 * share)} %`;
    at("doing").textContent = {uploading: `Uploading${full}`, waiting: "Waiting for the net", computing:
      of ? `${what}: ${done} of ${of} windows` : what}[state];
    if (share === null) at("progress").removeAttribute("value");
    else at("progress").value = share;
  };
  tell("uploading", null);
  try {
    at("told").textContent = await work(tell, mine.signal) ?? "";
  } catch (error) {
    if (error.name !== "AbortError" && mine === giveUp) fail(error.message);
  } finally {
    if (mine === giveUp) { show("busy", false); giveUp = null; }
  }
}

// Asks for the labels of a file and shows them.
function take(chosen) {
  if (!chosen) return;
  endCamera?.();
  const {megabytes} = model.limits;
  if (chosen.size > megabytes * 2 ** 20) {
    return fail(`${chosen.name} has ${(chosen.size / 2 ** 20).toFixed(1)} MB, the limit is ${megabytes} MB.`);
  }
  return run("Computing the labels", async (tell, signal) => {
    const asked = {top: Math.min(TOP, model.classes.length), ...options};
    const {blob} = await send("/api/predict", chosen, asked, tell, signal);
    labels = JSON.parse(await blob.text());
    used = asked;
    if (chosen !== file) load(chosen);
    file = chosen;
    draw();
    return `${labels.path}: ${labels.top[0].label} ${percent(labels.top[0].score)}`;
  });
}

// Gives a file to the <video> element.
function load(chosen) {
  if (video.src) URL.revokeObjectURL(video.src);
  playable = true;
  unplayable(false);
  video.src = URL.createObjectURL(chosen);
  video.setAttribute("aria-label", chosen.name);
  now = 0;
}

// Shows a sentence in place of the video.
function unplayable(on) {
  show("unplayable", on);
  show("screen", !on);
  at("result").classList.toggle("blind", on);
}

// Draws everything of the labels.
function draw() {
  document.body.classList.add("taken");
  show("live", false);
  show("result", true);
  at("name").textContent = labels.path;
  at("facts").textContent = `${labels.num_frames} frames, ${clock(labels.duration)}, ${labels.width} × ${labels.height}`;
  screen.style.setProperty("--ratio", labels.width / labels.height);
  hues = new Map(peaks(labels.windows).map((label, i) => [label, HUES[i]]));
  bars(at("whole"), labels.top.slice(0, 5), hue);
  legend(at("legend"), [...hues]);
  curves();
  timeline.rows(labels.segments, hue, seek);
  why.offer(model, labels);
  moved();
}

const hue = label => hues.get(label) ?? "rest";

function curves() {
  const middle = labels.windows.map(one => (one.start + one.end) / 2), last = labels.windows.length - 1;
  timeline.draw([0, labels.duration], [...hues].reverse().map(([label, hue]) => {
    const shares = labels.windows.map(one => one.top.find(row => row.label === label)?.score ?? 0);
    return {hue, points: [[0, shares[0]], ...shares.map((y, i) => [middle[i], y]), [labels.duration, shares[last]]]};
  }));
}

// The number of the window that a moment belongs to: the one whose middle is nearest.
function windowAt(seconds) {
  const far = labels.windows.map(one => Math.abs((one.start + one.end) / 2 - seconds));
  return far.indexOf(Math.min(...far));
}

function seek(seconds) {
  now = seconds;
  if (playable) video.currentTime = Math.min(seconds, labels.duration - 1e-3);
  moved();
}

// Puts everything in step with the moment that is shown.
function moved() {
  if (!labels) return;
  const one = labels.windows[windowAt(now)], best = one.top[0];
  at("when").textContent = `${clock(now)}, window ${clock(one.start)} to ${clock(one.end)}`;
  bars(at("here"), one.top.slice(0, 5), hue);
  timeline.now(now, `${best.label} ${percent(best.score)}`);
  why.paint();
}

function follow() {
  if (playable && labels && video.currentTime !== now) { now = video.currentTime; moved(); }
  if (!video.paused) requestAnimationFrame(follow);
}

async function film() {
  fail("");
  giveUp?.abort();
  endCamera?.();
  video.pause();
  try {
    endCamera = await open(sentence => {
      endCamera = null;
      show("live", false);
      show("result", Boolean(labels));
      document.body.classList.toggle("taken", Boolean(labels));
      fail(sentence);
    });
    document.body.classList.add("taken");
    show("result", false);
    show("live", true);
    at("stop").focus();
  } catch (error) {
    fail(error.message);
  }
}

function listen() {
  at("file").addEventListener("change", event => { take(event.target.files[0]); event.target.value = ""; });
  at("film").addEventListener("click", film);
  at("stop").addEventListener("click", () => { endCamera?.(); at("film").focus(); });
  at("cancel").addEventListener("click", () => giveUp?.abort());
  at("save").addEventListener("click", () => save(new Blob([JSON.stringify(labels)], {type: "application/json"}), `${labels.path}.json`));
  at("options").addEventListener("submit", event => {
    event.preventDefault();
    const {stride, lasts, threshold} = event.target.elements, plain = field => field.value.replace(/\s/g, "");
    options = {stride: plain(stride), window: plain(lasts), threshold: (threshold.value || 30) / 100};
    take(file);
  });
  let inside = 0;
  addEventListener("dragenter", event => { event.preventDefault(); at("drop").classList.toggle("over", ++inside > 0); });
  addEventListener("dragleave", () => at("drop").classList.toggle("over", --inside > 0));
  addEventListener("dragover", event => event.preventDefault());
  addEventListener("drop", event => {
    event.preventDefault();
    inside = 0;
    at("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  for (const name of ["seeked", "timeupdate", "play", "loadeddata"]) video.addEventListener(name, follow);
  video.addEventListener("error", () => {
    if (!video.getAttribute("src")) return;
    playable = false;
    unplayable(true);
  });
  new ResizeObserver(() => { if (labels && !at("result").hidden) { curves(); moved(); } }).observe(at("times"));
}

async function begin() {
  try {
    model = await get("/api/model");
  } catch (error) {
    return fail(error.message);
  }
  const {limits, classes} = model;
  at("net").textContent = `${model.name} · ${classes.length} classes`;
  at("rules").textContent = `Its labels appear over time. It goes to this server alone and is deleted when it is answered; at most ${limits.megabytes} MB and ${limits.frames.toLocaleString("en")} frames.`;
  show("film", model.camera);
  show("length", model.windows);
  why.begin(model, () => ({file, labels, options: used, window: windowAt(now), playable}), run);
  listen();
  document.body.classList.add("ready");
}

begin();
