// What is shown: chips, words and order, all of which stand in the address behind #.
const find = id => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const sections = all("section[data-more]");
const figures = all("figure");
const failed = all("#failed li");
const MOST_CHIPS = 12;
const state = { task: "", seed: "", flag: "", failed: "", q: "", sort: "" };
const ORDERS = {
  prompt: { says: "by prompt", of: figure => words(figure) },
  seed: { says: "by seed", of: figure => Number(figure.dataset.seeds.split(" ")[0]) },
  alignment: { says: "best aligned first", of: figure => -(figure.dataset.alignment ?? -Infinity) },
  concealment: { says: "best told apart first", of: figure => -(figure.dataset.concealment ?? -Infinity) },
};

const texts = new Map();
function words(element) {
  if (!texts.has(element)) texts.set(element, (element.textContent + " " + (element.dataset.more || "")).toLowerCase());
  return texts.get(element);
}

const places = new Map(figures.map((figure, place) => [figure, place]));
function sorted(by) {
  const value = by && ORDERS[by] ? new Map(figures.map(figure => [figure, ORDERS[by].of(figure)])) : places;
  const compare = (one, other) => {
    const [left, right] = [value.get(one), value.get(other)];
    return left < right ? -1 : left > right ? 1 : places.get(one) - places.get(other);
  };
  for (const box of all(".figures")) box.append(...[...box.children].sort(compare));
}

function fits(figure, above, wanted) {
  const data = figure.dataset;
  if (state.failed || (state.task && !data.task.split(" ").includes(state.task))) return false;
  if (state.seed && !data.seeds.split(" ").includes(state.seed)) return false;
  if (state.flag && !data.flags.split("|").includes(state.flag)) return false;
  return wanted.every(word => above.includes(word) || words(figure).includes(word));
}

const sizes = new Map(figures.map(figure => [figure, all("[data-own]", figure).length || 1]));
const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);

let drawnSort = "";
function draw() {
  if (state.sort !== drawnSort) sorted(drawnSort = state.sort);
  const wanted = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const section of sections) {
    const above = section.dataset.more.toLowerCase();
    let any = false;
    for (const figure of all("figure", section)) {
      const fit = fits(figure, above, wanted);
      figure.hidden = !fit;
      any ||= fit;
      left += fit && sizes.get(figure);
    }
    section.hidden = !any;
  }
  const others = state.task || state.seed || state.flag;
  for (const row of failed) row.hidden = !(!others && wanted.every(word => words(row).includes(word)));
  const failures = failed.filter(row => !row.hidden).length;
  if (find("failed")) find("failed").hidden = !failures;
  find("nothing").hidden = left + failures > 0;
  find("count").textContent = left < total ? `${left.toLocaleString("en")} of ${total.toLocaleString("en")} rows` : `${total.toLocaleString("en")} rows`;
  find("filter").value = state.q;
  find("sort").value = state.sort;
  for (const chip of all("#chips button")) chip.setAttribute("aria-pressed", state[chip.dataset.name] === chip.dataset.value);
  for (const select of all("#chips select")) select.value = state[select.dataset.name];
}

function change(changes) {
  Object.assign(state, changes);
  const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
  history.replaceState(null, "", "#" + said);
  draw();
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (![...given.keys()].every(name => name in state)) return draw(); // a place on the page
  for (const name of Object.keys(state)) state[name] = given.get(name) || "";
  draw();
}

function count(values) {
  const counts = new Map();
  for (const value of values) if (value) counts.set(value, (counts.get(value) || 0) + 1);
  return counts;
}

function chip(name, value, says) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: says });
  Object.assign(button.dataset, { name, value });
  button.addEventListener("click", () => change({ [name]: state[name] === value ? "" : value }));
  return button;
}

function choice(name, values, nothing, says) {
  const select = document.createElement("select");
  select.dataset.name = name;
  select.setAttribute("aria-label", nothing);
  select.append(new Option(nothing, ""), ...values.map(value => new Option(says(value), value)));
  select.addEventListener("change", () => change({ [name]: select.value }));
  return select;
}

function offer() {
  const found = [];
  const tasks = count(figures.flatMap(figure => figure.dataset.task.split(" ")));
  const seeds = [...count(figures.flatMap(figure => figure.dataset.seeds.split(" "))).keys()].sort((a, b) => a - b);
  if (seeds.length > 1) found.push(choice("seed", seeds, "any seed", seed => "seed " + seed));
  if (tasks.size > 1) for (const [task, title] of TITLES) if (tasks.has(task)) found.push(chip("task", task, title));
  const flags = [...count(figures.flatMap(figure => figure.dataset.flags.split("|"))).keys()].sort();
  if (flags.length > MOST_CHIPS) found.push(choice("flag", flags, "any flag", flag => flag));
  else found.push(...flags.map(flag => chip("flag", flag, flag)));
  if (failed.length) found.push(chip("failed", "1", "failed"));
  find("chips").append(...found);
  for (const [name, order] of Object.entries(ORDERS)) {
    const known = name === "prompt" || (name === "seed" ? seeds.length > 1 : figures.some(figure => name in figure.dataset));
    if (known) find("sort").append(new Option(order.says, name));
  }
}

offer();
find("filter").addEventListener("input", event => change({ q: event.target.value }));
find("sort").addEventListener("change", event => change({ sort: event.target.value }));
find("nothing").querySelector("button").addEventListener("click", () => change({ task: "", seed: "", flag: "", failed: "", q: "" }));
for (const link of all('header a[href^="#"]')) {
  link.addEventListener("click", event => { // to go there must not forget what was chosen
    event.preventDefault();
    const place = document.querySelector(link.getAttribute("href"));
    if (place.hidden) change({ task: "", seed: "", flag: "", q: "" });
    place.scrollIntoView();
  });
}
addEventListener("hashchange", readAddress);
readAddress();
