/* All means: sorts by every column, filters by method, mask, class, case, measure and profile. */
{
  const { columns, words, null_methods: nulls } = data.table;
  const number = columns.mean.length, page = 60;
  const chosen = { metric: data.primary, mask: data.mask, class: "all", case: "all", method: any, profile: "corrected" };
  let sorting = { key: null, up: false }, shown = page;
  const name = (key, row) => words[key][columns[key][row]];
  const key = (row, profile) => ["method", "mask", "class", "case", "metric"].map((k) => columns[k][row]).join() + profile;
  const place = new Map();
  for (let row = 0; row < number; row++) place.set(key(row, name("profile", row)), row);

  const both = () => chosen.profile === "both";
  const heads = () => [
    ["method", "method"], ["mask", "mask"], ["class", "class"], ["case", "case"], ["metric", "measure"],
    ...(both() ? [["mean", "corrected"], ["thesis", "thesis"], ["difference", "thesis - corrected"]]
      : [["mean", "mean"], ["low", "interval"], ["chance", "chance"], ["p", "p (Holm)"]]),
    ["n", "patches"], ["undefined", "undefined"],
  ];
  function value(row, what) {
    if (what === "thesis") {
      const other = place.get(key(row, "thesis"));
      return other === undefined ? null : columns.mean[other];
    }
    return what in words ? name(what, row) : columns[what][row];
  }
  function cell(row, what) {
    const v = value(row, what);
    if (what === "method") return v + (nulls.includes(v) ? " (null)" : "");
    if (what === "mask") return v.replace("_", "-");
    if (what === "metric") return data.metrics[v] || v;
    if (what in words || what === "n" || what === "undefined") return String(v);
    if (what === "p") return v === null ? dash : v;
    const other = columns.decimals[place.get(key(row, "thesis"))], own = columns.decimals[row];
    const decimals = what === "thesis" ? other : what === "difference" ? Math.max(own, other) : own;
    if (what === "low") return v === null ? dash : `${fixed(v, decimals)} to ${fixed(columns.high[row], decimals)}`;
    return fixed(v, decimals);
  }
  function found() {
    const rows = [];
    const wanted = Object.entries(chosen).filter(([k, v]) => v !== any && k !== "profile").map(([k, v]) => [k, words[k].indexOf(v)]);
    const profile = words.profile.indexOf(both() ? "corrected" : chosen.profile);
    for (let row = 0; row < number; row++) {
      if (columns.profile[row] !== profile || wanted.some(([k, v]) => columns[k][row] !== v)) continue;
      if (both() && !place.has(key(row, "thesis"))) continue;
      rows.push(row);
    }
    if (sorting.key) {
      const by = (row) => (sorting.key === "p" && value(row, "p") !== null ? parseFloat(String(value(row, "p")).replace("< ", "")) : value(row, sorting.key));
      rows.sort((a, b) => {
        const [x, y] = [by(a), by(b)];
        if (x === null || y === null) return (x === null) - (y === null); /* what is undefined stands last */
        const order = typeof x === "string" ? x.localeCompare(y) : x - y;
        return sorting.up ? order : -order;
      });
    }
    return rows;
  }
  function draw() {
    const rows = found(), columnsNow = heads();
    const head = made("tr", {}, ...columnsNow.map(([k, label], at) => {
      const mine = sorting.key === k;
      const button = made("button", { type: "button", text: label + (mine ? (sorting.up ? " ▲" : " ▼") : "") , onclick: () => {
        sorting = { key: k, up: mine ? !sorting.up : k in words };
        draw();
        byId("table-body").querySelectorAll("th button")[at].focus();
      } });
      return made("th", { scope: "col", class: at < 5 ? "left" : null, "aria-sort": mine ? (sorting.up ? "ascending" : "descending") : null }, button);
    }));
    const body = rows.slice(0, shown).map((row) => made("tr", {}, ...columnsNow.map(([k], at) =>
      (at ? made("td", { class: at < 5 ? "left" : null, text: cell(row, k) }) : made("th", { scope: "row", text: cell(row, k) })))));
    byId("table-body").replaceChildren(made("table", {}, made("thead", {}, head), made("tbody", {}, ...body)));
    byId("table-count").textContent = `${Math.min(shown, rows.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")} means`;
    byId("table-more").hidden = rows.length <= shown;
    const why = chosen.profile === "corrected" ? "" : data.why[chosen.metric] || (chosen.metric === any ? "Pick a measure to read why its two profiles differ." : "Only the corrected profile has this measure.");
    byId("table-why").hidden = !why;
    byId("table-why").textContent = why;
  }
  const pick = (k, label, options) => byId("table-filters").append(choice(label, options, chosen[k], (v) => {
    chosen[k] = v;
    shown = page;
    draw();
  }));
  const named = (k, show = (v) => v) => [[any, "any"], ...words[k].filter((v) => v !== "all").map((v) => [v, show(v)])];
  const all = (k) => [["all", "all together"], ...named(k)];
  pick("metric", "Measure", named("metric", (v) => data.metrics[v] || v));
  pick("method", "Method", named("method"));
  pick("mask", "Mask", named("mask", (v) => v.replace("_", "-")));
  pick("class", "Class", all("class"));
  pick("case", "Case", all("case"));
  pick("profile", "Profile", [...words.profile.map((v) => [v, v]), ...(words.profile.length > 1 ? [["both", "side by side"]] : [])]);
  byId("table-more").addEventListener("click", () => { shown += 10 * page; draw(); });
  byId("table").hidden = false;
  draw();
}
