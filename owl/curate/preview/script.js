// Point at a token: its tiles light up. Point at a tile: the tokens that cannot see it fade.
// A click keeps the choice until the next click. Without this the page still shows everything.
"use strict";

const samples = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("panel");
let kept = null;

function clear() {
  for (const name of ["seen", "unseen", "blind", "here"]) {
    document.querySelectorAll("." + name).forEach((node) => node.classList.remove(name));
  }
  document.querySelectorAll(".cursor").forEach((line) => line.setAttribute("x", -1));
  panel.hidden = true;
}

function showFacts(facts) {
  panel.replaceChildren(...facts.map(([label, value]) => {
    const box = document.createElement("div");
    const name = document.createElement("small");
    const text = document.createElement("code");
    name.textContent = label;
    text.textContent = value;
    box.append(name, text);
    return box;
  }));
  panel.hidden = false;
}

function tileNames(count) {
  return count === 0 ? "no tile" : count === 1 ? "tile 0" : `tiles 0 to ${count - 1}`;
}

function showToken(article, sample, position) {
  const [id, label, weight, text, labelText] = sample.tokens[position];
  const visible = sample.positions.filter((place) => place <= position).length;
  article.querySelectorAll("figure").forEach((tile) => {
    tile.classList.add(sample.positions[tile.dataset.m] <= position ? "seen" : "unseen");
  });
  article.querySelector(`.t[data-p="${position}"]`).classList.add("here");
  article.querySelector(".cursor")?.setAttribute("x", position);
  showFacts([
    ["token", JSON.stringify(text)],
    ["id", id],
    ["position in sample", position],
    ["row of pack", sample.first + position],
    ["predicts", label === null ? "nothing learned" : `${JSON.stringify(labelText)} (${label})`],
    ["weight", weight],
    ["sees", tileNames(visible)],
  ]);
}

function showTile(article, sample, tile) {
  const place = sample.positions[tile];
  article.querySelectorAll(".t").forEach((token) => {
    token.classList.toggle("blind", Number(token.dataset.p) < place);
  });
  article.querySelector(`figure[data-m="${tile}"]`).classList.add("seen");
  article.querySelector(".cursor")?.setAttribute("x", place);
  const watchers = Math.max(0, sample.tokens.length - place);
  showFacts([
    ["tile", tile],
    ["media_offset", sample.offsets[tile]],
    ["media_position", place],
    ["seen by", `${watchers} of ${sample.tokens.length} tokens`],
  ]);
}

function show(target) {
  const article = target.closest("article");
  const sample = samples[article.dataset.s];
  clear();
  if (target.matches("figure")) showTile(article, sample, Number(target.dataset.m));
  else showToken(article, sample, Number(target.dataset.p));
}

function target(event) {
  return event.target.closest?.("article .t, article figure");
}

document.addEventListener("mouseover", (event) => {
  const node = target(event);
  if (node && !kept) show(node);
});
document.addEventListener("mouseout", (event) => {
  if (target(event) && !kept) clear();
});
document.addEventListener("click", (event) => {
  const node = target(event);
  if (!node && !kept) return;
  kept = node && node !== kept ? node : null;
  if (kept) show(kept);
  else clear();
});
