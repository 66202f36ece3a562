/* Every patch a mark: class across, a measure upwards; marks open their patch. */
if (data.points.id.length) {
  const points = data.points, canvas = byId("points-canvas"), context = canvas.getContext("2d");
  const pictured = new Set(data.explorer.patches.map((p) => p.point));
  const state = { metric: points.measures.indexOf(data.primary) >= 0 ? data.primary : points.measures[0], mask: data.mask, method: data.methods[0] };
  const style = { 1: ["#009E73", "right, sure"], 2: ["#0072B2", "right, unsure"], 3: ["#D55E00", "wrong, sure"], 4: ["#CC79A7", "wrong, unsure"], 0: ["#888888", "no label"] };
  let marks = [], lit = -1;
  function draw() {
    const wide = canvas.clientWidth || 800, high = 260, scale = window.devicePixelRatio || 1;
    canvas.width = wide * scale;
    canvas.height = high * scale;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink"), line = getComputedStyle(document.documentElement).getPropertyValue("--line");
    const [m, k, q] = [data.methods.indexOf(state.method), data.masks.indexOf(state.mask), points.measures.indexOf(state.metric)];
    const found = points.id.map((_, p) => valueOf(p, m, k, q));
    const low = found.reduce((a, b) => Math.min(a, b ?? 0), 0), left = 44, bottom = 30, top = 8;
    const names = points.words.label, step = (wide - left - 8) / names.length;
    const y = (v) => top + (1 - (v - low) / (1 - low)) * (high - top - bottom);
    context.clearRect(0, 0, wide, high);
    context.font = "11px sans-serif";
    context.textAlign = "right";
    for (let tick = Math.ceil(low * 4); tick <= 4; tick++) {
      context.fillStyle = ink;
      context.fillText((tick / 4).toFixed(2), left - 6, y(tick / 4) + 4);
      context.fillStyle = line;
      context.fillRect(left, y(tick / 4), wide - left - 8, 1);
    }
    context.textAlign = "center";
    context.fillStyle = ink;
    names.forEach((name, c) => {
      const most = Math.max(2, Math.floor(step / 7));
      context.fillText(name.length > most ? name.slice(0, most - 1) + "…" : name, left + (c + 0.5) * step, high - 10);
    });
    marks = [];
    found.forEach((v, p) => {
      if (v === null) return;
      const spread = ((p * 0.618034) % 1 - 0.5) * 0.7; /* golden ratio: neighbours apart, the same every time */
      marks.push({ p, v, x: left + (points.label[p] + 0.5 + spread) * step, y: y(v) });
    });
    marks.sort((a, b) => points.label[a.p] - points.label[b.p] || a.v - b.v);
    for (const mark of marks) {
      context.globalAlpha = pictured.has(mark.p) ? 0.95 : 0.45;
      context.fillStyle = style[points.case[mark.p]][0];
      context.beginPath();
      context.arc(mark.x, mark.y, pictured.has(mark.p) ? 4 : 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    if (marks[lit]) {
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(marks[lit].x, marks[lit].y, 7, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  function light(at) {
    lit = at;
    draw();
    const mark = marks[at];
    byId("points-said").textContent = mark ? `${points.id[mark.p]}: ${three(mark.v)}${pictured.has(mark.p) ? "" : " (no picture in this file)"}` : "";
  }
  function near(event) {
    const place = canvas.getBoundingClientRect();
    let best = -1, least = 15 ** 2;
    marks.forEach((mark, k) => {
      const away = (mark.x - event.clientX + place.left) ** 2 + (mark.y - event.clientY + place.top) ** 2;
      if (away < least) [best, least] = [k, away];
    });
    return best;
  }
  canvas.addEventListener("mousemove", (event) => { const at = near(event); if (at !== lit) light(at); });
  canvas.addEventListener("click", (event) => { const at = near(event); if (at >= 0) { light(at); tell("patch", marks[at].p); } });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && marks.length) {
      light((lit + by + marks.length) % marks.length);
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === " ") && marks[lit]) {
      tell("patch", marks[lit].p);
      event.preventDefault();
    }
  });
  const set = (key) => (v) => { state[key] = v; lit = -1; draw(); };
  byId("points-controls").append(
    choice("Measure", points.measures.map((v) => [v, data.metrics[v] || v]), state.metric, set("metric")),
    choice("Method", data.methods.map((v) => [v, v]), state.method, set("method")),
    choice("Mask", data.masks.map((v) => [v, v.replace("_", "-")]), state.mask, set("mask")));
  byId("points-keys").append(...Object.entries(style).filter(([n]) => points.case.includes(+n)).map(([n, [colour, words]]) => {
    const key = made("i");
    key.style.background = colour;
    return made("span", {}, key, `case ${n}: ${words}`);
  }));
  byId("points").hidden = false;
  on("theme", draw);
  window.addEventListener("resize", draw);
  draw();
}
