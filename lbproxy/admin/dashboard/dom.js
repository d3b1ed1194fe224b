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

export function mark(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
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
    if (this.use.getAttribute("href") !== `#${kind}`) this.use.setAttribute("href", `#${kind}`);
    mark(this.node, "kind", kind);
  }
}

/** One part of the page for each of a list of things, kept as long as its key is in the list. */
export class Each {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.parts = new Map();
  }

  show(items, key, ...rest) {
    const parts = new Map();
    items.forEach((item, index) => {
      const name = key(item);
      const part = this.parts.get(name) ?? this.make(item);
      parts.set(name, part);
      this.parts.delete(name);
      if (this.parent.children[index] !== part.node) this.parent.insertBefore(part.node, this.parent.children[index] ?? null);
      part.show(item, ...rest);
    });
    for (const part of this.parts.values()) part.node.remove();
    this.parts = parts;
  }
}
