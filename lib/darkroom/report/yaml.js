// A manifest's row as YAML. Scalars that YAML could read as something else are quoted as JSON, whose escapes it knows.
const PLAIN = /^[A-Za-z]([\w ./-]*[\w./-])?$/;
const A_WORD_OF_YAML = /^(true|false|null|yes|no|on|off|y|n)$/i;
const NOT_PRINTED = /[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\u{10000}-\u{10ffff}]/gu;

function quoted(text) {
  return JSON.stringify(text).replace(NOT_PRINTED, sign => "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0"));
}

function inline(value) {
  if (Array.isArray(value)) return "[" + value.map(inline).join(", ") + "]";
  if (value !== null && typeof value === "object") {
    return "{" + Object.entries(value).map(([name, inner]) => inline(name) + ": " + inline(inner)).join(", ") + "}";
  }
  if (typeof value !== "string") return JSON.stringify(value);
  return PLAIN.test(value) && !A_WORD_OF_YAML.test(value) ? value : quoted(value);
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
