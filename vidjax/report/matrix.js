// The confusion matrix: what a cell says, under the pointer or by the arrow keys, in the order that is chosen.
const {names, rows: sparse, orders} = JSON.parse($("counts").textContent), size = names.length;
const counts = sparse.map(row => { const map = new Map(); for (let k = 0; k < row.length; k += 2) map.set(row[k], row[k + 1]); return map; });
const totals = counts.map(row => [...row.values()].reduce((a, b) => a + b, 0));
const matrix = $("confusion"), pictured = matrix.tagName !== "TABLE";
let at = [0, 0], order = orders[0];

function show(i, j) {
  at = [i, j];
  const [is, said] = [order[i], order[j]], n = counts[is].get(said) || 0;
  const share = totals[is] ? ` (${(100 * n / totals[is]).toFixed(1)} %)` : "";
  $("cell").textContent = `${names[is]} → ${names[said]}: ${n} of ${totals[is]}${share}`;
  if (pictured) {
    const [across, down, cell] = matrix.querySelectorAll(".cross"), unit = 100 / size, percent = x => x * unit + "%";
    Object.assign(across.style, {left: 0, width: "100%", top: percent(i), height: unit + "%"});
    Object.assign(down.style, {top: 0, height: "100%", left: percent(j), width: unit + "%"});
    Object.assign(cell.style, {top: percent(i), left: percent(j), width: unit + "%", height: unit + "%"});
    matrix.classList.add("on");
  } else {
    for (const lit of matrix.querySelectorAll(".lit")) lit.classList.remove("lit");
    matrix.tHead.rows[0].cells[j + 1].classList.add("lit");
    matrix.tBodies[0].rows[i].cells[0].classList.add("lit");
  }
}

const place = cell => [cell.parentNode.sectionRowIndex, cell.cellIndex - 1];
const cellAt = (i, j) => matrix.tBodies[0].rows[i].cells[j + 1];
const filled = (i, j) => counts[order[i]].has(order[j]);

// Cells of many classes are smaller than a pointer: the nearest one with videos, up to four pixels away, is meant.
function under(event) {
  if (!pictured) return event.target.tagName === "TD" ? place(event.target) : null;
  const box = matrix.getBoundingClientRect(), reach = Math.floor(4 * size / box.width);
  const [i, j] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map(x => clip(Math.floor(size * x), 0, size - 1));
  let best = [i, j], least = filled(i, j) ? 0 : Infinity;
  for (let y = Math.max(0, i - reach); y <= Math.min(size - 1, i + reach); y++)
    for (let x = Math.max(0, j - reach); x <= Math.min(size - 1, j + reach); x++) {
      const far = (y - i) ** 2 + (x - j) ** 2;
      if (far < least && filled(y, x)) [best, least] = [[y, x], far];
    }
  return best;
}

for (const kind of ["pointermove", "pointerdown"]) matrix.addEventListener(kind, event => { const cell = under(event); if (cell) show(...cell); });
matrix.addEventListener("focusin", event => pictured ? show(...at) : event.target.tagName === "TD" && show(...place(event.target)));
matrix.addEventListener("keydown", event => {
  const move = ARROWS[event.key];
  if (!move) return;
  event.preventDefault();
  const [i, j] = at.map((x, k) => clip(x + move[k], 0, size - 1));
  if (!pictured) {
    cellAt(...at).tabIndex = -1;
    cellAt(i, j).tabIndex = 0;
    cellAt(i, j).focus();
  }
  show(i, j);
  if (pictured) matrix.querySelector(".cross.cell").scrollIntoView({block: "nearest", inline: "nearest"});
});

if ($("zoom")) {
  $("zoom").value = "1";
  $("zoom").onchange = event => {
    const times = event.target.value, cell = matrix.querySelector(".cross.cell");
    matrix.style.setProperty("--zoom", times);
    matrix.querySelector("img").classList.toggle("crisp", times > 1 || size < 150);
    if (matrix.classList.contains("on")) cell.scrollIntoView({block: "center", inline: "center"});
  };
}

function arrangeTable(from) {
  const head = matrix.tHead.rows[0], body = matrix.tBodies[0], where = order.map(c => from.indexOf(c));
  for (const cell of matrix.querySelectorAll("[tabindex='0']")) cell.tabIndex = -1;
  for (const row of [head, ...body.rows]) {
    const cells = [...row.cells];
    row.append(...where.map(k => cells[k + 1]));
  }
  const rows = [...body.rows];
  body.append(...where.map(k => rows[k]));
  cellAt(0, 0).tabIndex = 0;
}

const image = pictured && matrix.querySelector("img"), labels = document.querySelector(".labels");
let pixels = null;
function arrangePicture() {
  const canvas = Object.assign(document.createElement("canvas"), {width: size, height: size});
  const context = canvas.getContext("2d");
  if (!pixels) {
    context.drawImage(image, 0, 0);
    pixels = new Uint32Array(context.getImageData(0, 0, size, size).data.buffer);
  }
  const fresh = context.createImageData(size, size), cells = new Uint32Array(fresh.data.buffer);
  order.forEach((from, i) => order.forEach((to, j) => { cells[i * size + j] = pixels[from * size + to]; }));
  context.putImageData(fresh, 0, 0);
  image.src = canvas.toDataURL();
  if (labels) order.forEach((c, i) => { labels.children[i].firstElementChild.textContent = names[c]; });
}

if ($("order")) {
  $("order").value = "0"; // a browser may keep the choice of a page that is loaded again
  $("order").onchange = event => {
    const from = order;
    order = orders[event.target.value];
    if (pictured) arrangePicture(); else arrangeTable(from);
    at = [0, 0];
    matrix.classList.remove("on");
    for (const lit of matrix.querySelectorAll(".lit")) lit.classList.remove("lit");
    $("cell").textContent = "Point at a cell, or move through them with the arrow keys.";
  };
}
