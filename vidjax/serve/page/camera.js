// The camera's frames to the server, and what comes of them: labels with their latency, and a minute of scores.

import {bars, legend} from "./labels.js";
import {HUES, Timeline} from "./timeline.js";

const at = id => document.getElementById(id);
const MINUTE = 60, WAITING = 1 << 18;  // seconds that are drawn; bytes that may wait to be sent
let minute = null;

// Opens the camera and follows it: -> a function that ends it. `ended(sentence or "")` is called once, at its end.
export async function open(ended) {
  if (!navigator.mediaDevices) throw new Error("Browsers give a camera to pages of this machine (127.0.0.1) or of https alone.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, height: {ideal: 480}}});
  } catch (error) {
    const none = error.name === "NotFoundError" || error.name === "OverconstrainedError";
    throw new Error(none ? "There is no camera." : error.name === "NotAllowedError"
      ? "The camera was not allowed; allow it beside the page's address." : `The camera does not open (${error.name}).`);
  }
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/camera?top=10`);
  const lens = at("lens"), canvas = document.createElement("canvas"), sent = [], seen = [], own = new Map();
  let timer = 0, number = 0, over = false, drawing = false, failed = "";
  minute ??= new Timeline(at("minute"));
  const end = (sentence = "") => {
    if (over) return;
    over = true;
    clearInterval(timer);
    for (const track of stream.getTracks()) track.stop();
    lens.srcObject = null;
    socket.close();
    ended(sentence);
  };
  stream.getVideoTracks()[0].addEventListener("ended", () => end("The camera has gone."));
  lens.srcObject = stream;
  at("lag").textContent = "The net is being prepared ...";
  at("pace").textContent = "";
  bars(at("live-bars"), []);
  legend(at("live-legend"), []);
  minute.draw([-MINUTE, 0], [], t => t ? `${t.toFixed(0)} s` : "now");

  const shoot = side => {
    if (drawing || !lens.videoWidth || socket.bufferedAmount > WAITING) return;
    const scale = Math.min(1, side / Math.min(lens.videoWidth, lens.videoHeight));
    canvas.width = Math.round(lens.videoWidth * scale);
    canvas.height = Math.round(lens.videoHeight * scale);
    canvas.getContext("2d").drawImage(lens, 0, 0, canvas.width, canvas.height);
    const taken = performance.now();
    drawing = true;
    canvas.toBlob(blob => {
      drawing = false;
      if (over || !blob || socket.readyState !== WebSocket.OPEN) return;
      sent[number++ % 256] = taken;
      socket.send(blob);
    }, "image/jpeg", .85);
  };
  socket.addEventListener("message", ({data}) => {
    const said = JSON.parse(data);
    if (said.error) failed = said.error;
    if (said.state === "ready") timer = setInterval(shoot, 1000 / said.fps, said.side);
    if (said.top) show(said, performance.now() - sent[said.frame % 256], seen, own);
  });
  socket.addEventListener("close", () => end(failed || "The server ended the camera's connection."));
  return () => end();
}

// Shows one answer of the server, `round` milliseconds after its frame was taken.
function show(said, round, seen, own) {
  const best = said.top[0].label;
  if (!own.has(best)) {  // the class that has not been the best for the longest time gives its colour
    const oldest = own.size < HUES.length ? null : [...own].sort((a, b) => a[1].last - b[1].last)[0];
    own.set(best, {hue: oldest ? oldest[1].hue : HUES[own.size]});
    if (oldest) own.delete(oldest[0]);
  }
  own.get(best).last = said.time;
  seen.push(said);
  while (seen[0].time < said.time - MINUTE) seen.shift();
  const hue = label => own.get(label)?.hue ?? "rest";
  if (said.time - (minute.last ?? -1) < .2 && said.time >= minute.last) return;
  minute.last = said.time;
  bars(at("live-bars"), said.top.slice(0, 5), hue);
  const seconds = said.latency === null ? "" : `${Math.round(1000 * said.latency)} ms from a frame's coming to its labels, `;
  at("lag").textContent = `${seconds}${Math.round(round)} ms with the way there and back.`;
  at("pace").textContent = `${said.frames} frames, ${said.dropped} dropped`;
  const curves = [...own].map(([label, {hue}]) => ({hue, points: seen.map(one => [
    one.time - said.time, one.top.find(row => row.label === label)?.score ?? 0])}));
  minute.draw([-MINUTE, 0], curves, t => t ? `${t.toFixed(0)} s` : "now");
  legend(at("live-legend"), [...own].map(([label, {hue}]) => [label, hue]));
}
