// A picture on a canvas that goes from one view of an anagram to another: turned, or each pixel to its place.
const GOING = 900; // milliseconds from view to view

function loaded(address) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = fail;
    image.src = address;
  });
}

class Turning {
  // shown: as shown_rows has it; canvas: square, of the size at which it is drawn
  constructor(canvas, shown) {
    this.canvas = canvas;
    this.shown = shown;
    this.at = 0;
    this.frame = 0;
    this.ready = this.prepare();
  }

  async prepare() {
    const { motion, ends } = this.shown, side = motion.side;
    const image = await loaded(this.shown.small ?? this.shown.source);
    const small = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
    small.drawImage(image, 0, 0, side, side);
    this.colours = new Uint32Array(small.getImageData(0, 0, side, side).data.buffer);
    this.places = motion.places.map(text => new Uint16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer));
    this.ends = await Promise.all((ends ?? []).map(loaded));
    this.rest();
  }

  async go(to) {
    await this.ready;
    const from = this.at, began = performance.now();
    this.at = to;
    cancelAnimationFrame(this.frame);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.rest();
    const step = now => {
      const part = Math.min((now - began) / GOING, 1);
      if (part === 1) return this.rest();
      this.between(from, to, 0.5 - 0.5 * Math.cos(Math.PI * part));
      this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }

  next() {
    return this.go((this.at + 1) % this.places.length);
  }

  rest() {
    const pen = this.canvas.getContext("2d");
    if (this.ends.length) pen.drawImage(this.ends[this.at], 0, 0, this.canvas.width, this.canvas.height);
    else this.scatter(this.places[this.at], this.places[this.at], 0, this.negated(this.at));
  }

  negated(view) {
    return this.shown.motion.negated[view] ? 1 : 0;
  }

  between(from, to, share) {
    const { turns, across } = this.shown.motion;
    const angle = turns[from][to];
    if (!angle) {
      const faded = this.negated(from) + share * (this.negated(to) - this.negated(from));
      return this.scatter(this.places[from], this.places[to], share, faded);
    }
    const still = document.createElement("canvas"), pen = this.canvas.getContext("2d"), size = this.canvas.width;
    still.width = still.height = size;
    const now = this.at;
    this.at = from; // drawn as it began, then turned
    this.rest();
    this.at = now;
    still.getContext("2d").drawImage(this.canvas, 0, 0);
    if (across[from][to] > 1) pen.clearRect(0, 0, size, size);
    pen.save();
    pen.beginPath();
    pen.arc(size / 2, size / 2, across[from][to] * size / 2, 0, 2 * Math.PI);
    pen.clip();
    pen.translate(size / 2, size / 2);
    pen.rotate(-share * angle * Math.PI / 180); // degrees are counter-clockwise
    pen.drawImage(still, -size / 2, -size / 2);
    pen.restore();
  }

  scatter(from, to, share, faded) { // faded: 0 the picture's own colours, 1 their negative
    const side = this.shown.motion.side, size = this.canvas.width, scale = size / side, block = Math.ceil(scale);
    const pen = this.canvas.getContext("2d"), drawn = pen.createImageData(size, size), pixels = new Uint32Array(drawn.data.buffer);
    for (let pixel = 0; pixel < from.length; pixel++) {
      const [a, b] = [from[pixel], to[pixel]];
      const x = Math.round(((a % side) * (1 - share) + (b % side) * share) * scale);
      const y = Math.round((Math.floor(a / side) * (1 - share) + Math.floor(b / side) * share) * scale);
      const colour = faded ? mixed(this.colours[pixel], faded) : this.colours[pixel];
      for (let down = y; down < Math.min(y + block, size); down++) {
        pixels.fill(colour, down * size + x, down * size + Math.min(x + block, size));
      }
    }
    pen.putImageData(drawn, 0, 0);
  }
}

function mixed(colour, share) {
  let found = 0xff000000;
  for (const shift of [0, 8, 16]) {
    const value = colour >>> shift & 255;
    found |= Math.round(value + share * (255 - 2 * value)) << shift;
  }
  return found >>> 0;
}

// The largest size within `room` that is a whole number of times a small picture's own, so that its pixels stay square.
function fitting(side, room, crisp) {
  return crisp && side < room ? Math.floor(room / side) * side : Math.min(room, crisp ? room : Math.max(side, 1));
}
