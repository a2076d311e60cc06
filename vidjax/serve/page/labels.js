// Lists of classes with their shares as bars.

export const percent = share => `${(100 * share).toFixed(share > 0 && share < .001 ? 2 : 1)} %`;
export const clock = seconds => `${seconds.toFixed(2)} s`;

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Fills an <ol> with [{label, score}]; `hue(label)` is a class of the style sheet, or "".
export function bars(list, found, hue = () => "") {
  while (list.children.length > found.length) list.lastChild.remove();
  while (list.children.length < found.length) {
    list.append(make("li", {}, make("span"), make("span"), make("div", {className: "bar"}, make("i"))));
  }
  found.forEach(({label, score}, i) => {
    const [name, share, bar] = list.children[i].children;
    if (name.textContent !== label) name.textContent = label;
    share.textContent = percent(score);
    bar.className = `bar ${hue(label)}`;
    bar.firstChild.style.width = `${100 * score}%`;
  });
}

// Fills a legend with [(name, hue)].
export function legend(list, named) {
  list.replaceChildren(...named.map(([name, hue]) => make("li", {className: hue, textContent: name})));
}
