// A mask drawn on a picture, by brush or rectangles: what is painted becomes white. Sent when the pointer lets go, with
// the picture's key, as what was drawn on another one before is no mask of this.
const ROOM = 448;

export default function ({ data, parentElement, setStateValue }) {
  const box = parentElement.querySelector(".mask");
  if (box.dataset.picture === data.key) return;
  box.dataset.picture = data.key;
  const sheet = Object.assign(document.createElement("div"), { className: "sheet" });
  const image = Object.assign(new Image(), { src: data.source, alt: "" });
  const canvas = document.createElement("canvas");
  const tools = toolbar(() => { pen.clearRect(0, 0, canvas.width, canvas.height); send(); });
  canvas.width = data.width;
  canvas.height = data.height;
  const pen = canvas.getContext("2d");
  const larger = Math.max(1, Math.floor(Math.min(ROOM, box.clientWidth || ROOM) / data.width));
  image.style.width = Math.min(ROOM, data.width * larger) + "px";
  sheet.append(image, canvas);
  box.replaceChildren(sheet, tools.bar);

  const send = () => setStateValue("mask", { key: data.key, picture: blackAndWhite(canvas) });
  let from = null, before = null;
  const place = event => {
    const room = canvas.getBoundingClientRect();
    return [(event.clientX - room.left) * canvas.width / room.width, (event.clientY - room.top) * canvas.height / room.height];
  };
  const draw = to => {
    pen.globalCompositeOperation = tools.kind() === "erase" ? "destination-out" : "source-over";
    pen.fillStyle = pen.strokeStyle = "#ff2d55";
    if (tools.kind() === "rectangle") {
      pen.putImageData(before, 0, 0);
      pen.fillRect(...from, to[0] - from[0], to[1] - from[1]);
      return;
    }
    pen.lineWidth = tools.width() * canvas.width / 100;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    from = to;
  };
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    from = place(event);
    before = pen.getImageData(0, 0, canvas.width, canvas.height);
    draw(from);
  });
  canvas.addEventListener("pointermove", event => { if (from) draw(place(event)); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (from) { from = null; send(); } });
}

function toolbar(clear) {
  const bar = Object.assign(document.createElement("div"), { className: "tools" });
  let chosen = "brush";
  const buttons = ["brush", "rectangle", "erase"].map(name => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", () => { chosen = name; mark(); });
    return button;
  });
  const mark = () => buttons.forEach(button => button.setAttribute("aria-pressed", button.textContent === chosen));
  const label = Object.assign(document.createElement("label"), { textContent: "width " });
  const width = Object.assign(document.createElement("input"), { type: "range", min: 3, max: 50, value: 18 });
  label.append(width);
  const empty = Object.assign(document.createElement("button"), { type: "button", textContent: "clear" });
  empty.addEventListener("click", clear);
  bar.append(...buttons, label, empty);
  mark();
  return { bar, kind: () => chosen, width: () => Number(width.value) };
}

// null where nothing is painted.
function blackAndWhite(canvas) {
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let any = 0;
  for (let at = 0; at < pixels.data.length; at += 4) {
    const painted = pixels.data[at + 3] > 127 ? 255 : 0;
    any |= painted;
    pixels.data.set([painted, painted, painted, 255], at);
  }
  pen.putImageData(pixels, 0, 0);
  return any ? copy.toDataURL("image/png") : null;
}
