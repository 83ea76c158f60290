// The page: settings, an endless grid, a walk. All computing is the worker's.

"use strict";

const MOST = 16; // Images asked for at once,
const PATIENCE = 150; // and milliseconds that they may take: settings wait for nothing else.
const AHEAD = 600; // Pixels of the grid below the window that are drawn before they are seen.
const STOPS = 8; // Of a walk.
const SECONDS = 1.5; // From one stop to the next.

const at = (id) => document.getElementById(id);
const part = (id) => {
  const {textContent: text, dataset: {size, stride}} = at(id);
  at(id).remove();
  return {text, size: Number(size), stride: Number(stride)};
};
const source = new Blob([at("worker").textContent], {type: "text/javascript"});
const url = URL.createObjectURL(source);
const worker = new Worker(url);

let about, names;
let version = 0; // Of the settings: what was asked for under other ones is not shown.
let isBusy = true;
let start = 0; // Image that a walk begins with.
let isPlaying = false;
let walkIsStale = true;
const times = [];

function fault(text) {
  at("about").textContent = text;
  at("about").className = "fault";
}

function settings() {
  const cut = at("truncation");
  return {
    version,
    seed: Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, Math.floor(Number(at("seed").value)) || 0)),
    truncation: cut.value === cut.max ? null : Number(cut.value),
    label: at("class").value === "" ? null : Number(at("class").value),
  };
}

const view = () => document.querySelector("[name=view]:checked").value;
const short = (number) => number.toFixed(number < 1 ? 2 : number < 10 ? 1 : 0);
const named = (label) => about.conditional ? `, class ${names[label]}` : "";

function ask(task, values) {
  isBusy = true;
  worker.postMessage({task, ...values});
}

// Asks for what is missing, if the worker has nothing to do.
function proceed() {
  if (isBusy || !about) return;
  if (view() === "walk") {
    if (!walkIsStale) return;
    walkIsStale = false;
    const position = Math.min(Number(at("position").value), STOPS - 1e-6);
    ask("walk", {...settings(), first: start, stops: STOPS, position});
  } else if (at("end").getBoundingClientRect().top < innerHeight + AHEAD) {
    const count = Math.min(MOST, Math.max(1, Math.floor(PATIENCE / median())));
    ask("grid", {...settings(), first: at("tiles").childElementCount, count});
  }
}

function paint(canvas, pixels, index = 0) {
  const {width, height} = about, size = 4 * width * height;
  const image = new ImageData(pixels.slice(index * size, (index + 1) * size), width, height);
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle("pixelated", Math.max(width, height) <= 64);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const answers = {
  open({about: opened}) {
    about = opened;
    names = about.classNames
      ? about.classNames.map((name, i) => name === String(i) ? name : `${i} ${name}`)
      : Array.from({length: about.numClasses}, (_, i) => String(i));
    if (about.conditional) {
      at("classes").hidden = false;
      names.forEach((name, i) => at("class").append(new Option(name, i)));
    }
    const share = short(100 * about.numNonzero / about.numWeights);
    at("about").textContent = `${about.numNonzero.toLocaleString("en")} of ` +
      `${about.numWeights.toLocaleString("en")} weights are not zero, ${share} %. ` +
      "Your browser computes each image at these weights alone. Nothing is sent or loaded.";
    at("tiles").style.setProperty("--tile", about.width > 64 ? "9rem" : "5rem");
    document.querySelector("main").hidden = false;
  },

  grid({version: asked, pixels, labels, first, milliseconds}) {
    if (asked !== version) return;
    measured(milliseconds / labels.length);
    labels.forEach((label, i) => {
      const tile = document.createElement("button"), canvas = document.createElement("canvas");
      tile.type = "button";
      tile.dataset.number = first + i;
      tile.title = `Image ${first + i}${named(label)}`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", tile.title);
      paint(canvas, pixels, i);
      tile.append(canvas);
      at("tiles").append(tile);
    });
  },

  walk({version: asked, pixels, labels, milliseconds, first, stops, position}) {
    if (asked !== version || first !== start) return;
    measured(milliseconds);
    paint(at("picture"), pixels);
    const stop = Math.floor(position);
    at("way").textContent = `From image ${first + stop} to image ${first + (stop + 1) % stops}` +
      `${named(labels[0])}. The walk passes ${stops} images and returns.`;
  },

  fault({text}) { fault(text); },
};

worker.onmessage = ({data}) => {
  isBusy = false;
  answers[data.task](data);
  if (data.task !== "fault") proceed();
};
worker.onerror = (event) => fault(`This browser cannot run the generator: ${event.message}`);

// Milliseconds of an image; infinite as long as there was none.
const median = () => [...times].sort((a, b) => a - b)[times.length >> 1] ?? Infinity;

function measured(milliseconds) {
  times.push(milliseconds);
  if (times.length > 15) times.shift();
  at("time").textContent =
    `${short(median())} ms an image of ${about.height} × ${about.width}, one thread`;
}

function changed() {
  ++version;
  walkIsStale = true;
  at("tiles").replaceChildren();
  const {truncation} = settings();
  at("cut").textContent = truncation === null ? "none" : truncation.toFixed(2);
  proceed();
}

function setSeed(seed) {
  at("seed").value = Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, seed));
  start = 0;
  changed();
}

function show(name) {
  document.querySelector(`[name=view][value=${name}]`).checked = true;
  at("grid").hidden = name !== "grid";
  at("walk").hidden = name !== "walk";
  if (name === "grid") play(false);
  walkIsStale = true;
  proceed();
}

let former = 0;
function step(now) {
  if (!isPlaying) return;
  const position = at("position");
  // A page that was hidden goes on where it was.
  const passed = Math.min(now - former, 100) / 1000 / SECONDS;
  former = now;
  position.value = (Number(position.value) + passed) % STOPS;
  walkIsStale = true;
  proceed();
  requestAnimationFrame(step);
}

function play(plays) {
  if (plays === isPlaying) return;
  isPlaying = plays;
  at("play").textContent = plays ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", plays);
  at("position").step = plays ? "any" : "0.01";
  former = performance.now();
  if (plays) requestAnimationFrame(step);
}

at("settings").onsubmit = (event) => event.preventDefault();
at("seed").oninput = () => { start = 0; changed(); };
at("former").onclick = () => setSeed(settings().seed - 1);
at("next").onclick = () => setSeed(settings().seed + 1);
at("random").onclick = () => setSeed(Math.floor(Math.random() * 1e6));
for (const id of ["class", "truncation"]) at(id).oninput = changed;
for (const choice of document.querySelectorAll("[name=view]")) {
  choice.onchange = () => show(choice.value);
}
at("tiles").onclick = (event) => {
  const tile = event.target.closest("button");
  if (!tile) return;
  start = Number(tile.dataset.number);
  at("position").value = 0;
  show("walk");
  at("play").focus();
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
};
at("play").onclick = () => play(!isPlaying);
at("position").oninput = () => { play(false); walkIsStale = true; proceed(); };
for (const event of ["scroll", "resize"]) addEventListener(event, proceed, {passive: true});

const keys = {
  ArrowLeft: () => setSeed(settings().seed - 1),
  ArrowRight: () => setSeed(settings().seed + 1),
  r: () => at("random").click(),
  g: () => show("grid"),
  w: () => show("walk"),
  " ": () => { if (view() === "walk") play(!isPlaying); },
};
addEventListener("keydown", (event) => {
  if (!about || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTaken = event.target.matches("input, select") ||
    (event.key === " " && (event.target.matches("button") || view() === "grid"));
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (isTaken || !keys[key]) return;
  event.preventDefault();
  keys[key]();
});

if (!globalThis.WebAssembly || !globalThis.DecompressionStream) {
  fault("This browser is too old: it lacks WebAssembly or DecompressionStream.");
} else {
  ask("open", {module: part("module"), file: part("generator")});
}
