// One picture, large: an anagram goes from view to view, a hybrid shrinks or blurs, a series plays.
const FRAME = 500; // milliseconds a picture of a series stands

export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".viewer");
  if (box.dataset.id === data.key) return () => {};
  box.dataset.id = data.key;
  const room = Math.min(box.clientWidth || 480, 640);
  const stage = part("div", "stage"), controls = part("div", "controls");
  stage.style.minHeight = Math.min(room, 384) + "px";
  if (data.frames) series(data.frames, room, stage, controls);
  else if (!data.source) stage.append(part("span", "problem", data.problem));
  else if (data.motion) anagram(data, room, stage, controls);
  else still(data, room, stage, controls);
  box.replaceChildren(stage, controls);
}

function part(tag, name, text) {
  return Object.assign(document.createElement(tag), { className: name, textContent: text ?? "", dir: "auto" });
}

function framed(address, crisp, room) {
  const image = Object.assign(new Image(), { src: address, alt: "", className: crisp ? "crisp" : "" });
  image.addEventListener("load", () => { image.style.width = fitting(image.naturalWidth, room, crisp) + "px"; });
  return image;
}

function slider(name, most, moved) {
  const label = part("label", "slider", name);
  const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: most, value: 0 });
  input.addEventListener("input", () => moved(Number(input.value)));
  label.append(input);
  return [label, input];
}

function still(data, room, stage, controls) {
  const image = framed(data.source, data.crisp, room);
  stage.append(image);
  if (data.task !== "hybrid") return;
  let [distance, blur] = [0, 0];
  const show = () => Object.assign(image.style, seenFrom(distance, blur, image.clientWidth));
  controls.append(slider("From further away", 100, value => { distance = value / 100; show(); })[0]);
  controls.append(slider("Blurred", 100, value => { blur = value / 100; show(); })[0]);
}

function anagram(data, room, stage, controls) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = data.crisp ? fitting(data.motion.side, room, true) : Math.min(room, data.size);
  const turning = new Turning(canvas, data);
  const buttons = data.labels.map((label, number) => {
    const button = Object.assign(part("button", "", label), { type: "button" });
    button.addEventListener("click", () => show(number));
    return button;
  });
  const show = number => {
    turning.go(number);
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", other === number));
  };
  canvas.addEventListener("mouseenter", () => show((turning.at + 1) % buttons.length));
  canvas.addEventListener("click", () => show((turning.at + 1) % buttons.length));
  stage.append(canvas);
  controls.append(...buttons);
  show(0);
}

function series(frames, room, stage, controls) {
  const images = frames.map(frame => frame.source ? framed(frame.source, frame.crisp, Math.min(room, 384)) : part("span", "problem", frame.problem));
  const [label, input] = slider("", frames.length - 1, value => show(value)), said = part("span", "");
  const play = Object.assign(part("button", "play", "Play"), { type: "button" });
  let timer = 0;
  const show = number => {
    input.value = number;
    said.textContent = frames[number].label;
    stage.replaceChildren(images[number]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "Stop";
    timer = setInterval(() => play.isConnected ? show((Number(input.value) + 1) % frames.length) : stop(), FRAME);
  });
  controls.append(play, label, said);
  show(Math.max(frames.findIndex(frame => frame.own), 0));
}
