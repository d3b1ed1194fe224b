// What the page is made of. Everything that was told is set as text or as an attribute, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Sets a text if it is another one: what does not change is not read out again, and stays selected. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The same for an attribute. */
export function put(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function mark(node, name, value) {
  put(node, `data-${name}`, value);
}

/** The sign of a verdict; the word for it stands beside it. */
export class Glyph {
  constructor() {
    this.node = document.createElementNS(SVG, "svg");
    this.node.setAttribute("class", "glyph");
    this.node.setAttribute("aria-hidden", "true");
    this.use = this.node.appendChild(document.createElementNS(SVG, "use"));
  }

  show(kind) {
    put(this.use, "href", `#${kind}`);
    mark(this.node, "kind", kind);
  }
}

/** One part of the page for each of a list of things, kept as long as its key is in the list. `before` are others. */
export class Each {
  constructor(parent, make, before = 0) {
    this.parent = parent;
    this.make = make;
    this.before = before;
    this.parts = new Map();
  }

  show(items, key, ...rest) {
    const parts = new Map();
    items.forEach((item, index) => {
      const name = key(item);
      const part = this.parts.get(name) ?? this.make(item);
      parts.set(name, part);
      this.parts.delete(name);
      const there = this.parent.children[this.before + index];
      if (there !== part.node) this.parent.insertBefore(part.node, there ?? null);
      part.show(item, ...rest);
    });
    for (const part of this.parts.values()) part.node.remove();
    this.parts = parts;
  }
}
