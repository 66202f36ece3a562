/* Patches: their image, each method's map, the masks, and the study's overlay as layers. */
const values = data.points && new Int16Array(bytes(data.points.values).buffer);
/* value of a patch, method, mask and measure; null where undefined */
function valueOf(point, method, mask, measure) {
  const [m, k, q] = [data.methods.length, data.masks.length, data.points.measures.length];
  const v = values[((point * m + method) * k + mask) * q + measure];
  return v === -32768 ? null : v / 1000;
}
if (data.points.id.length) {
  const { patches, size, palettes, greyed, sequential, diverging } = data.explorer, [height, width] = size;
  const points = data.points, primary = points.measures.indexOf(data.primary) >= 0 ? data.primary : points.measures[0];
  const filter = { class: any, case: any, order: "four", metric: primary, mask: data.mask, method: "all" };
  const layers = { image: true, map: false, signed: false, masks: false, overlay: true };
  let opacity = 55, palette = data.explorer.palette, list = [], current = 0, outside = null;
  const cache = new Map();
  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const ramp = { sequential: sequential.map(rgb), diverging: diverging.map(rgb) };

  async function unpack(text, rows, columns) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const raw = new Uint8Array(await new Response(stream).arrayBuffer());
    const plane = raw.slice(1);
    if (raw[0]) for (let r = 0; r < rows; r++) for (let c = 1; c < columns; c++) plane[r * columns + c] += plane[r * columns + c - 1];
    return { plane, rows, columns };
  }
  function load(patch) {
    if (!cache.has(patch)) {
      if (cache.size > 40) cache.delete(cache.keys().next().value);
      const image = new Image();
      image.src = "data:image/jpeg;base64," + patch.image;
      cache.set(patch, Promise.all([
        image.decode().then(() => image),
        unpack(patch.masks, height, width),
        Promise.all(patch.maps.map((m) => (m ? unpack(m, height, width) : null))),
        Promise.all(patch.signed.map((s) => (s ? unpack(s.plane, s.size[0], s.size[1]) : null))),
      ]));
    }
    return cache.get(patch);
  }
  function painted({ plane, rows, columns }, colour) {
    const canvas = made("canvas"), pixels = new ImageData(columns, rows);
    canvas.width = columns;
    canvas.height = rows;
    for (let k = 0; k < plane.length; k++) {
      const found = colour(plane[k], k);
      if (!found) continue;
      pixels.data.set(found, 4 * k);
      pixels.data[4 * k + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  }
  function paint(canvas, image, masks, map, signed) {
    const context = canvas.getContext("2d"), colours = Object.fromEntries(Object.entries(palettes[palette]).map(([k, v]) => [k, rgb(v)]));
    const lay = (layer) => {
      context.globalAlpha = opacity / 100;
      context.imageSmoothingEnabled = false;
      context.drawImage(layer, 0, 0, width, height);
      context.globalAlpha = 1;
    };
    canvas.width = width;
    canvas.height = height;
    context.fillStyle = "#808080";
    context.fillRect(0, 0, width, height);
    if (layers.image) {
      context.drawImage(image, 0, 0, width, height);
      if (greyed.includes(palette) && (layers.masks || (layers.overlay && map)) && !layers.map && !layers.signed) {
        context.globalCompositeOperation = "saturation"; /* grey, so that only layers have colour */
        context.fillStyle = "#808080";
        context.fillRect(0, 0, width, height);
        context.globalCompositeOperation = "source-over";
      }
    }
    if (layers.signed && signed) lay(painted(signed, (v) => ramp.diverging[v]));
    if (layers.map && map) lay(painted(map, (v) => ramp.sequential[Math.min(v, 100)]));
    if (layers.masks) lay(painted(masks, (v) => (v & 1 ? colours.tumor : v & 2 ? colours.non_tumor : null)));
    if (layers.overlay && map) {
      lay(painted(map, (v, k) => {
        const found = v > threshold, bits = masks.plane[k];
        if (bits & 1) return found ? colours["map and tumor"] : colours.tumor;
        if (bits & 2) return found ? colours["map and non-tumor"] : colours.non_tumor;
        return found ? colours.map : null;
      }));
    }
  }
  function words(point) {
    const of = (k) => points.words[k][points[k][point]];
    return `${points.id[point]}: ${of("label")}, taken for ${of("prediction")} with probability ${points.probability[point].toFixed(2)}`
      + ` (case ${points.case[point]}, group ${of("group")})`;
  }
  function scores(point) {
    const mask = data.masks.indexOf(filter.mask);
    const rows = data.methods.map((name, m) => [name, ...points.measures.map((_, q) => three(valueOf(point, m, mask, q)))]);
    byId("explorer-scores").replaceChildren(tableOf(["method", ...points.measures.map((m) => data.metrics[m] || m)], rows,
      `Scores of this patch, ${filter.mask.replace("_", "-")} mask, corrected profile`));
  }
  let turn = 0;
  async function draw() {
    const mine = ++turn, tiles = byId("explorer-tiles");
    const patch = outside === null ? patches[list[current]] : null;
    const point = outside === null ? patch && patch.point : outside;
    if (point === undefined || point === null) {
      byId("explorer-title").textContent = "No patch of this kind has pictures in this file.";
      tiles.replaceChildren();
      byId("explorer-scores").replaceChildren();
      return;
    }
    byId("explorer-title").textContent = (patch ? "" : "No picture in this file (report --show ID adds it): ") + words(point);
    scores(point);
    if (!patch) {
      tiles.replaceChildren();
      return;
    }
    const [image, masks, maps, signed] = await load(patch);
    if (mine !== turn) return; /* another was asked for meanwhile */
    const mask = data.masks.indexOf(filter.mask), measure = points.measures.indexOf(filter.metric);
    const tile = (name, map, sign, caption) => {
      const canvas = made("canvas", { role: "img", "aria-label": name + caption });
      paint(canvas, image, masks, map, sign);
      return made("figure", {}, canvas, made("figcaption", {}, made("b", { text: name }), caption));
    };
    tiles.replaceChildren(
      tile("patch", null, null, layers.masks ? " and masks" : ""),
      ...data.methods.map((name, m) => tile(name, maps[m], signed[m],
        maps[m] ? ` ${data.metrics[filter.metric] || filter.metric} ${three(valueOf(point, m, mask, measure))}`
          + (layers.signed && patch.signed[m] ? `, signed to ±${patch.signed[m].most}` : "") : " map is not finite")));
  }
  function rank(patch) {
    const mask = data.masks.indexOf(filter.mask), measure = points.measures.indexOf(filter.metric);
    const of = data.methods.map((_, m) => m).filter((m) => (filter.method === "all" ? !data.table.null_methods.includes(data.methods[m]) || data.table.null_methods.length === data.methods.length : data.methods[m] === filter.method));
    const known = of.map((m) => valueOf(patch.point, m, mask, measure)).filter((v) => v !== null);
    if (!known.length) return null;
    if (filter.order === "apart") return Math.max(...known) - Math.min(...known);
    return known.reduce((a, b) => a + b, 0) / known.length;
  }
  function select(keep) {
    list = patches.map((_, k) => k).filter((k) => (filter.class === any || points.words.label[points.label[patches[k].point]] === filter.class)
      && (filter.case === any || String(points.case[patches[k].point]) === filter.case));
    if (filter.order !== "four") {
      const by = new Map(list.map((k) => [k, rank(patches[k])]));
      const sign = filter.order === "worst" ? 1 : -1;
      list.sort((a, b) => (by.get(a) === null) - (by.get(b) === null) || sign * (by.get(a) - by.get(b)));
    }
    current = Math.max(0, list.indexOf(keep));
    outside = null;
    chooser.replaceChildren(...list.map((k, at) => made("option", { value: at, text: `${at + 1}. ${points.id[patches[k].point]}` })));
    chooser.value = current;
    draw();
  }
  function keys() {
    const swatch = (colour, label) => {
      const key = made("i");
      key.style.background = colour;
      return made("span", {}, key, label);
    };
    const bar = (colours, low, high, label) => {
      const strip = made("span", { class: "bar" });
      strip.style.background = `linear-gradient(to right, ${colours.filter((_, k) => k % 10 === 0).join()})`;
      return made("span", {}, label + " " + low, strip, high);
    };
    const shown = [];
    const c = palettes[palette];
    if (layers.overlay) shown.push(swatch(c.map, `map > ${(threshold / 100).toFixed(2)}`), swatch(c["map and tumor"], "map and tumor"), swatch(c["map and non-tumor"], "map and non-tumor"));
    if (layers.overlay || layers.masks) shown.push(swatch(c.tumor, "tumor"), swatch(c.non_tumor, "non-tumor"));
    if (layers.map) shown.push(bar(sequential, "0", "1", "map as scored"));
    if (layers.signed) shown.push(bar(diverging, "against", "for the class", "signed evidence, its own scale in every map:"));
    byId("explorer-keys").replaceChildren(...shown);
  }
  const again = () => { keys(); draw(); };
  const set = (k) => (v) => { filter[k] = v; select(-1); };
  const chooser = made("select", { "aria-label": "Patch", onchange: () => { current = +chooser.value; outside = null; draw(); } });
  const step = (by) => {
    if (!list.length) return;
    current = outside === null ? (current + by + list.length) % list.length : current;
    outside = null;
    chooser.value = current;
    draw();
  };
  const present = points.words.label;
  byId("explorer-filters").append(
    choice("Class", [[any, "any"], ...present.map((v) => [v, v])], any, set("class")),
    choice("Case", [[any, "any"], ["1", "1: right, sure"], ["2", "2: right, unsure"], ["3", "3: wrong, sure"], ["4", "4: wrong, unsure"]], any, set("case")),
    choice("Order", [["four", "as chosen"], ["best", "best first"], ["worst", "worst first"], ["apart", "most disagreement first"]], "four", set("order")),
    choice("By", points.measures.map((m) => [m, data.metrics[m] || m]), filter.metric, set("metric")),
    choice("Mask", data.masks.map((m) => [m, m.replace("_", "-")]), filter.mask, set("mask")),
    choice("Method", [["all", "mean of methods"], ...data.methods.map((m) => [m, m])], "all", set("method")));
  byId("explorer-choice").append(
    made("button", { type: "button", text: "◀ Previous", onclick: () => step(-1) }),
    chooser,
    made("button", { type: "button", text: "Next ▶", onclick: () => step(1) }));
  const cutter = slider("Map threshold", threshold, (v) => { threshold = v; tell("threshold"); });
  byId("explorer-layers").append(
    ...Object.keys(layers).map((k) => box({ image: "Image", map: "Map", signed: "Signed evidence", masks: "Masks", overlay: "Overlay" }[k], layers[k], (v) => { layers[k] = v; again(); })),
    slider("Opacity", opacity, (v) => { opacity = v; draw(); }),
    cutter,
    choice("Colours", [["safe", "colour-blind-safe"], ["study", "the study's"]], palette, (v) => { palette = v; again(); }));
  on("threshold", () => { cutter.set(threshold); again(); });
  on("patch", (point) => {
    const at = patches.findIndex((p) => p.point === point);
    if (at >= 0) {
      Object.assign(filter, { class: any, case: any });
      byId("explorer-filters").querySelectorAll("select").forEach((s, k) => { if (k < 2) s.value = any; });
      select(at);
    } else {
      outside = point;
      draw();
    }
    byId("explorer").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  });
  byId("explorer").hidden = false;
  keys();
  select(0);
}
