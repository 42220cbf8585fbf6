// One picture, large: an anagram turns, a hybrid goes away or blurs, its row is copied.
const large = find("large"), picture = find("picture"), beside = find("beside");
const ILLUSIONS = ["anagram", "hybrid"]; // all panels of these are one picture
const MEANINGS = {
  alignment: "how well the worst view answers to its own prompt; more is better",
  concealment: "how surely views are told apart by their prompts; 1 is best, pure guessing is 1 by their number",
};
let now = null, turned = 0;

function withWhole(found) {
  for (const [name, digits] of Object.entries(found.whole)) found.row[name] = BigInt(digits);
  return found;
}

let rows = null; // read when first wanted, so that the page opens fast
function allRows() {
  rows ??= new Promise((done, fail) => {
    window.darkroomRows = found => done(found.map(withWhole));
    document.head.append(Object.assign(document.createElement("script"), { src: "rows.js", onerror: fail }));
  });
  return rows;
}

function stops() { // each row's own picture, of those that are shown
  return all("figure:not([hidden]) a[data-own]").filter(link => !link.closest("section").hidden);
}

function panels() {
  const figure = now.closest("figure");
  return figure.classList.contains("sweep") ? [now] : all("a.shown", figure);
}

function show(link) {
  const figure = link.closest("figure");
  const illusion = ILLUSIONS.includes(figure.dataset.task);
  now = illusion ? figure.querySelector("a.shown") : link;
  turned = illusion ? panels().indexOf(link) : 0;
  find("distance").value = find("blur").value = 0;
  const list = stops();
  find("where").textContent = `${at(list) + 1} of ${list.length}`;
  find("hint").hidden = figure.dataset.task !== "anagram";
  find("far").hidden = figure.dataset.task !== "hybrid";
  find("motion").hidden = !figure.dataset.animation;
  find("motion").href = figure.dataset.animation ?? "";
  find("file").href = now.dataset.video ?? now.href;
  play(now.dataset.video);
  if (!large.open) large.showModal();
  place(picture, now);
  turn(turned);
  describe(now.dataset.row);
}

function play(src) { // a video in the picture's place, or none
  const video = find("video");
  picture.hidden = !!src;
  video.hidden = !src;
  if (src) video.src = src;
  else video.removeAttribute("src");
  video.load();
}

function at(list) { // a source or a mask stands where its row does
  return list.findIndex(link => link.dataset.row === now.dataset.row);
}

function place(image, link) {
  const thumbnail = link.querySelector("img");
  image.classList.toggle("smooth", thumbnail.classList.contains("smooth"));
  image.alt = thumbnail.alt;
  image.src = link.href;
  image.onload = fit;
  fit();
}

function fit() { // pixels are enlarged by a whole number where there is room for it
  const room = picture.parentElement;
  const [width, height] = [(room.clientWidth - 40) / (beside.hidden || innerWidth <= 720 ? 1 : 2) - 10, Math.max(room.clientHeight, innerHeight * 0.44) - 40];
  for (const image of [picture, beside]) {
    if (!image.naturalWidth) continue;
    const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
    image.style.width = image.naturalWidth * (scale > 1 ? Math.floor(scale) : scale) + "px";
  }
  far();
}

function turn(to) {
  const links = panels(), link = links[to];
  turned = to;
  const moves = link.dataset.motion !== undefined;
  picture.style.transform = moves ? link.dataset.motion : "";
  picture.style.filter = link.dataset.negated !== undefined ? "invert(1)" : "";
  beside.hidden = moves || to === 0; // no motion of the whole makes this one: it is shown beside
  if (!beside.hidden) place(beside, link);
  fit();
  const many = links.length > 1 && now.closest("figure").dataset.task !== "text_to_image";
  find("views").replaceChildren(...(many ? links.map((other, number) => view(other, number)) : []));
}

function view(link, number) {
  const says = all(".label, [dir=auto]", link.parentElement).map(part => part.textContent).join(": ");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: says || link.querySelector("img").alt, dir: "auto" });
  const illusion = ILLUSIONS.includes(now.closest("figure").dataset.task);
  button.setAttribute("aria-pressed", illusion ? number === turned : link === now);
  button.addEventListener("click", () => illusion ? turn(number) : show(link));
  return button;
}

function far() {
  if (find("far").hidden) return;
  Object.assign(picture.style, seenFrom(find("distance").value / 100, find("blur").value / 100, picture.clientWidth));
}

async function describe(number) {
  const row = (await allRows().catch(() => null))?.[number];
  if (!now || now.dataset.row !== number) return;
  for (const button of [find("yaml"), find("json")]) button.hidden = !row?.row;
  const asked = row?.row ?? {};
  find("asked").textContent = asked.prompt ?? (asked.label != null ? `label ${asked.label}` : "");
  const facts = Object.entries(asked).filter(([name]) => !["prompt", "views", "components"].includes(name));
  if (row && !row.row) facts.push(["id", row.id], ["row", "too long for a page: it is in the run's Parquet"]);
  for (const [name, value] of Object.entries(row?.score ?? {})) facts.push([name, `${value}: ${MEANINGS[name]}`]);
  if (row?.flags.length) facts.push(["flags", row.flags.join(", ")]);
  if (row?.evaluations) facts.push(["model evaluations", row.evaluations.toLocaleString("en")]);
  find("facts").replaceChildren(...facts.flatMap(([name, value]) => {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name.replaceAll("_", " ");
    said.textContent = typeof value === "string" ? value : toJson(value);
    said.dir = "auto";
    return [term, said];
  }));
  find("record").textContent = row?.record.join("\n") ?? "";
  const ending = now.dataset.video ? ".mp4" : ".png";
  find("file").download = (row?.id ?? "picture").replace(/[^\w.-]+/g, "-").slice(0, 100) + ending;
}

async function copy(button, write) {
  const text = write((await allRows())[now.dataset.row].row);
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without leave: what is selected can always be copied
    const box = Object.assign(document.createElement("textarea"), { value: text });
    large.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  const says = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = says; }, 1200);
}

function step(by) {
  const list = stops();
  const next = list[(at(list) + by + list.length) % list.length];
  if (next) show(next);
}

function press() {
  if (now.closest("figure").dataset.task === "anagram") turn((turned + 1) % panels().length);
}

document.addEventListener("click", event => {
  const link = event.target.closest("a.shown");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
large.addEventListener("keydown", event => {
  if (event.target.type === "range" || event.target === find("video")) return;
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === " " && event.target.tagName !== "BUTTON") press();
  else return;
  event.preventDefault();
});
large.addEventListener("close", () => play());
large.addEventListener("close", () => now?.scrollIntoView({ block: "nearest" }));
picture.parentElement.addEventListener("click", press);
for (const name of ["distance", "blur"]) find(name).addEventListener("input", far);
find("back").addEventListener("click", () => step(-1));
find("on").addEventListener("click", () => step(1));
find("close").addEventListener("click", () => large.close());
find("yaml").addEventListener("click", event => copy(event.currentTarget, toYaml));
find("json").addEventListener("click", event => copy(event.currentTarget, row => toJson(row) + "\n"));
addEventListener("resize", () => large.open && fit());
