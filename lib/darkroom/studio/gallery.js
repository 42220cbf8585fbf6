// A page of thumbnails. A press opens one; an anagram under the cursor goes from view to view.
const ROOM = 160;

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector(".gallery");
  if (list.dataset.page === data.page) return;
  list.dataset.page = data.page;
  list.replaceChildren(...data.rows.map(row => tile(row, setTriggerValue)));
}

function tile(row, open) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "tile", title: row.id });
  button.append(row.source ? picture(row, button) : Object.assign(document.createElement("span"), { className: "problem", textContent: row.problem, dir: "auto" }));
  const said = Object.assign(document.createElement("span"), { className: "caption", textContent: row.caption, dir: "auto" });
  button.append(said);
  if (row.score) button.append(Object.assign(document.createElement("span"), { className: "score", textContent: row.score }));
  button.addEventListener("click", () => open("open", row.id));
  return button;
}

function picture(row, button) {
  if (!row.motion) {
    const image = Object.assign(new Image(), { src: row.source, alt: "", className: row.crisp ? "crisp" : "" });
    image.addEventListener("load", () => { image.style.width = fitting(image.naturalWidth, ROOM, row.crisp) + "px"; });
    return image;
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = fitting(row.motion.side, ROOM, true);
  const turning = new Turning(canvas, row);
  let timer = 0;
  const start = () => {
    clearInterval(timer);
    turning.next();
    timer = setInterval(() => canvas.isConnected ? turning.next() : clearInterval(timer), 2 * GOING);
  };
  const stop = () => {
    clearInterval(timer);
    turning.go(0);
  };
  for (const name of ["mouseenter", "focus"]) button.addEventListener(name, start);
  for (const name of ["mouseleave", "blur"]) button.addEventListener(name, stop);
  return canvas;
}
