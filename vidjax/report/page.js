"use strict";
const $ = id => document.getElementById(id), clip = (x, low, high) => Math.min(high, Math.max(low, x));
const ARROWS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

// A table's heads sort its rows by their data-KEY; a search field hides the rows that do not have its words.
for (const table of document.querySelectorAll("table.classes")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells].filter(head => head.dataset.key);
  for (const head of heads) head.firstElementChild.onclick = () => {
    const key = head.dataset.key, was = head.getAttribute("aria-sort");
    const up = was === "none" ? !head.dataset.down : was === "descending";
    const by = key === "name" ? (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, {numeric: true})
                              : (a, b) => a.dataset[key] - b.dataset[key];
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows.sort((a, b) => up ? by(a, b) : by(b, a)));
  };
  const find = table.closest("section").querySelector(".find");
  if (find) find.oninput = () => {
    const wanted = find.value.toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.name.toLowerCase().includes(wanted);
  };
}

// A chart reads out what lies under the pointer, or what the arrow keys come to.
for (const plot of document.querySelectorAll(".plot")) {
  const stops = JSON.parse(plot.dataset.stops), output = plot.parentNode.querySelector(".reading");
  let at = -1;
  const read = i => {
    at = clip(i, 0, stops.length - 1);
    plot.querySelector(".needle").style.left = stops[at][0] + "%";
    plot.classList.add("on");
    output.textContent = stops[at][1];
  };
  const nearest = x => stops.reduce((best, stop, i) => Math.abs(stop[0] - x) < Math.abs(stops[best][0] - x) ? i : best, 0);
  for (const kind of ["pointermove", "pointerdown"]) plot.addEventListener(kind, event => {
    const box = plot.getBoundingClientRect();
    read(nearest(100 * (event.clientX - box.left) / box.width));
  });
  plot.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key];
    if (!move) return;
    event.preventDefault();
    read(at < 0 ? (move > 0 && move < 1e9 ? 0 : stops.length - 1) : at + move);
  });
}

// A map reads out the video nearest to the pointer, or the next by the arrow keys; one class can be shown alone.
for (const plane of document.querySelectorAll(".plane")) {
  const stops = JSON.parse(plane.dataset.stops), output = plane.parentNode.querySelector(".reading"), svg = plane.firstElementChild;
  let at = -1;
  const read = i => {
    at = clip(i, 0, stops.length - 1);
    const [x, y, text, number] = stops[at], hue = plane.querySelector(`g[data-class="${number}"]`).style.getPropertyValue("--at");
    for (const path of plane.querySelectorAll(".ring, .inner")) {
      path.setAttribute("d", `M${x} ${100 - y}h0`);
      path.style.setProperty("--at", hue);
    }
    plane.classList.add("on");
    output.textContent = text;
  };
  for (const kind of ["pointermove", "pointerdown"]) plane.addEventListener(kind, event => {
    const box = svg.getBoundingClientRect();
    const x = 100 * (event.clientX - box.left) / box.width, y = 100 - 100 * (event.clientY - box.top) / box.height;
    const far = ([a, b, , c]) => (a - x) ** 2 + (b - y) ** 2 + (plane.dataset.only && plane.dataset.only !== `${c}` ? 1e6 : 0);
    read(stops.reduce((best, stop, i) => far(stop) < far(stops[best]) ? i : best, 0));
  });
  plane.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key];
    if (!move) return;
    event.preventDefault();
    read(at < 0 ? (move > 0 && move < 1e9 ? 0 : stops.length - 1) : at + move);
  });
}
const shown = $("shown");
if (shown) {
  const only = number => {
    for (const plane of document.querySelectorAll(".plane")) plane.dataset.only = number;
    for (const group of document.querySelectorAll(".plane g")) group.classList.toggle("faint", number !== "" && group.dataset.class !== number);
  };
  const buttons = [...shown.querySelectorAll("button")];
  shown.onchange = () => only(shown.value);
  for (const button of buttons) button.onclick = () => {
    const alone = button.getAttribute("aria-pressed") === "false";
    for (const other of buttons) other.setAttribute("aria-pressed", String(alone && other === button));
    only(alone ? button.value : "");
  };
}

// A clip takes the place of its filmstrip while it is looked at; nothing moves unasked.
for (const button of document.querySelectorAll(".play")) {
  const film = button.parentNode, strip = film.querySelector(".strip"), video = film.querySelector("video");
  const name = button.getAttribute("aria-label").slice(5), face = button.innerHTML;
  button.hidden = false;
  button.onclick = () => {
    const playing = video.hidden;
    video.hidden = !playing;
    strip.hidden = playing;
    button.classList.toggle("back", playing);
    button.innerHTML = playing ? "Show the frames" : face;
    button.setAttribute("aria-label", playing ? `Show the frames of ${name}` : `Play ${name}`);
    if (playing) video.play().catch(() => {}); else video.pause();
  };
}
