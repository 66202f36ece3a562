/* The map's threshold: a slider over the means of IoU, precision and recall at 0, 0.01, ..., 1. */
let threshold = data.threshold; /* in hundredths; the explorer's overlays follow it */
if (data.cuts.length) {
  const measures = ["iou", "precision", "recall"], svg = byId("cut-chart");
  const words = { iou: "IoU", precision: "precision", recall: "recall" };
  const dashes = ["", "7 3", "2 3", "9 3 2 3", "12 4", "1 4"];
  let mask = data.mask, measure = "iou";
  const height = 260, left = 44, bottom = 34, top = 8;
  let width = 860;
  const right = 16;
  let most = 1;
  const x = (t) => left + (t / 100) * (width - left - right), y = (v) => top + (1 - v / most) * (height - top - bottom);
  const node = (tag, about, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(about)) element.setAttribute(k, v);
    if (text) element.textContent = text;
    return element;
  };
  const rows = () => data.cuts.filter((c) => c.mask === mask);
  const colour = (name) => data.colours[data.methods.indexOf(name) % data.colours.length];
  function draw() {
    width = Math.min(860, svg.parentElement.clientWidth - 30);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const highest = rows().reduce((a, row) => row[measure].reduce((b, v) => Math.max(b, v ?? 0), a), 0);
    most = [0.04, 0.1, 0.2, 0.4, 0.6, 0.8].find((v) => highest <= v) || 1;
    for (let k = 0; k <= 4; k++) {
      const v = (most * k) / 4;
      svg.append(node("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: k ? "grid" : "axis" }));
      svg.append(node("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(most < 0.1 ? 3 : 2)));
      svg.append(node("text", { x: x(25 * k), y: height - bottom + 15, "text-anchor": "middle" }, (k / 4).toFixed(2)));
    }
    svg.append(node("text", { x: (width + left) / 2, y: height - 3, "text-anchor": "middle" }, "threshold of the map"));
    rows().forEach((row, k) => {
      let path = "", open = false; /* no line where there is no value */
      row[measure].forEach((v, t) => {
        if (v !== null) path += `${open ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`;
        open = v !== null;
      });
      svg.append(node("path", { d: path, class: "line", fill: "none", stroke: colour(row.method), "stroke-width": 2, "stroke-dasharray": dashes[k % dashes.length] }));
    });
    svg.append(node("line", { x1: x(threshold), x2: x(threshold), y1: top, y2: height - bottom, class: "axis", "stroke-dasharray": "3 3" }));
    byId("cut-keys").replaceChildren(...rows().map((row, k) => {
      const key = node("svg", { width: 34, height: 10, "aria-hidden": "true" });
      key.append(node("line", { x1: 0, x2: 30, y1: 5, y2: 5, stroke: colour(row.method), "stroke-width": 3, "stroke-dasharray": dashes[k % dashes.length] }));
      return made("span", {}, key, row.method);
    }));
    const decimals = measures.map((m) => decimalsOf(rows().map((row) => row[m][threshold])));
    byId("cut-table").replaceChildren(tableOf(["method", ...measures.map((m) => words[m])],
      rows().map((row) => [row.method, ...measures.map((m, k) => fixed(row[m][threshold], decimals[k]))]),
      `Means at threshold ${(threshold / 100).toFixed(2)}, ${mask.replace("_", "-")} mask`));
  }
  const move = slider("Threshold", threshold, (v) => { threshold = v; tell("threshold"); });
  byId("cut-controls").append(move,
    choice("Drawn", measures.map((m) => [m, words[m]]), measure, (v) => { measure = v; draw(); }),
    choice("Mask", data.masks.map((m) => [m, m.replace("_", "-")]), mask, (v) => { mask = v; draw(); }));
  window.addEventListener("resize", draw);
  on("threshold", () => { move.set(threshold); draw(); });
  byId("cut").hidden = false; /* first, since what is hidden has no width */
  draw();
}
