// A hybrid as seen from further away: smaller, or as blurred. distance, blur: 0 to 1; width: of the picture, in pixels.
function seenFrom(distance, blur, width) {
  return {
    transform: `scale(${(1 - 0.94 * distance).toFixed(3)})`,
    filter: blur ? `blur(${(blur * blur * width / 8).toFixed(1)}px)` : "",
  };
}
