// Comfort only: what a mark stands for when it is pointed at, and one label's clips alone. Without it the page says the same.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  document.body.append(tip);
  const show = (event, parts) => {
    tip.replaceChildren(...parts);
    tip.classList.add("on");
    const right = event.clientX + 16 + tip.offsetWidth > innerWidth;
    tip.style.left = Math.max(4, right ? event.clientX - 12 - tip.offsetWidth : event.clientX + 14) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 6)) + "px";
  };
  const hide = () => tip.classList.remove("on");

  const { side, columns } = document.body.dataset;
  for (const dot of document.querySelectorAll(".scatter .dot")) { // those of the legend have no title
    const title = dot.querySelector("title");
    const told = title.textContent;
    title.remove(); // or the browser's own tip comes on top of ours
    dot.setAttribute("aria-label", told);
    dot.addEventListener("pointermove", (event) => {
      const picture = document.createElement("span");
      picture.className = "sheet";
      const n = Number(dot.dataset.n);
      picture.style.cssText = `width:${side}px;height:${side}px;background-position:${-(n % columns) * side}px ${
        -Math.floor(n / columns) * side}px`;
      const text = document.createElement("span");
      text.textContent = told;
      show(event, [picture, text]);
    });
    dot.addEventListener("pointerleave", hide);
  }

  for (const key of document.querySelectorAll(".legend li[data-kind]")) {
    const light = (on) => {
      for (const svg of document.querySelectorAll(".scatter")) {
        svg.classList.toggle("fade", on);
        for (const dot of svg.querySelectorAll(".dot"))
          dot.classList.toggle("lit", on && dot.dataset.kind === key.dataset.kind);
      }
    };
    key.addEventListener("pointerenter", () => light(true));
    key.addEventListener("pointerleave", () => light(false));
  }

  const three = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(3)));
  for (const svg of document.querySelectorAll(".lines")) {
    const [x0, x1, left, right] = svg.dataset.x.split(" ").map(Number);
    const [y0, y1, bottom, top] = svg.dataset.y.split(" ").map(Number);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
    const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
      name: line.dataset.name,
      points: line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
    }));
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const near = new Map(); // of each name the point nearest to the pointer
      for (const { name, points } of lines)
        for (const point of points) {
          const before = near.get(name);
          if (!before || Math.abs(point[0] - x) < Math.abs(before[0] - x)) near.set(name, point);
        }
      if (x < left || x > right || !near.size) return leave();
      const at = [...near.values()].reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a))[0];
      cursor.setAttribute("d", `M${at} ${top}V${bottom}`);
      const text = document.createElement("span");
      const rows = [...near].filter(([, point]) => Math.abs(point[0] - at) < 12);
      const step = x0 + ((at - left) / (right - left)) * (x1 - x0);
      text.textContent = [`${svg.dataset.name} ${Math.round(step)}`]
        .concat(rows.map(([name, point]) => `${name}: ${three(y0 + ((bottom - point[1]) / (bottom - top)) * (y1 - y0))}`))
        .join("\n");
      show(event, [text]);
    });
    const leave = () => {
      cursor.setAttribute("d", "");
      hide();
    };
    svg.addEventListener("pointerleave", leave);
  }
})();
