// A manifest's row as JSON, and as YAML. Scalars that YAML could read as something else are quoted as JSON, whose escapes
// it knows. Numbers of more than 53 bits are BigInts, which JSON.stringify does not take.
const PLAIN = /^[A-Za-z]([\w ./-]*[\w./-])?$/;
const A_WORD_OF_YAML = /^(true|false|null|yes|no|on|off|y|n)$/i;
const NOT_PRINTED = /[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\u{10000}-\u{10ffff}]/gu;

function quoted(text) {
  return JSON.stringify(text).replace(NOT_PRINTED, sign => "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0"));
}

function flow(value, text) { // text: how texts are written
  if (Array.isArray(value)) return "[" + value.map(inner => flow(inner, text)).join(", ") + "]";
  if (value !== null && typeof value === "object") {
    return "{" + Object.entries(value).map(([name, inner]) => text(name) + ": " + flow(inner, text)).join(", ") + "}";
  }
  return typeof value === "string" ? text(value) : String(value);
}

function toJson(value) {
  return flow(value, text => JSON.stringify(text));
}

function inline(value) {
  return flow(value, text => PLAIN.test(text) && !A_WORD_OF_YAML.test(text) ? text : quoted(text));
}

function toYaml(row) {
  const lines = [];
  for (const [name, value] of Object.entries(row)) {
    const apart = Array.isArray(value) && value.some(inner => inner !== null && typeof inner === "object");
    lines.push(apart ? `${inline(name)}:` : `${inline(name)}: ${inline(value)}`);
    if (apart) for (const inner of value) lines.push(`  - ${inline(inner)}`);
  }
  return lines.map((line, number) => (number ? "  " : "- ") + line).join("\n") + "\n";
}
