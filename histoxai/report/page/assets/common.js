"use strict";
/* Everything is made with DOM calls and textContent: no name of a class or patch is ever parsed as HTML. */
document.documentElement.classList.add("js");
const stored = document.getElementById("data");
const data = stored ? JSON.parse(stored.textContent) : null;
const byId = (id) => document.getElementById(id);
const dash = "–";
const any = " any"; /* no filter; the space keeps it apart from a class of that name */

function made(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(about)) {
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function choice(label, options, value, changed) {
  const select = made("select");
  for (const [key, words] of options) select.append(made("option", { value: key, text: words }));
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  const whole = made("label", { text: label });
  whole.append(select);
  whole.select = select;
  return whole;
}

function box(label, on, changed) {
  const input = made("input", { type: "checkbox" });
  input.checked = on;
  input.addEventListener("change", () => changed(input.checked));
  return made("label", { class: "box" }, input, label);
}

function slider(label, value, changed, words = (v) => (v / 100).toFixed(2)) {
  const said = made("span", { text: `${label}: ${words(value)}` });
  const input = made("input", { type: "range", min: 0, max: 100, step: 1, value, "aria-label": label });
  input.addEventListener("input", () => {
    said.textContent = `${label}: ${words(+input.value)}`;
    changed(+input.value);
  });
  const whole = made("label", {}, said, input);
  whole.set = (v) => {
    input.value = v;
    said.textContent = `${label}: ${words(v)}`;
  };
  return whole;
}

function tableOf(heads, rows, caption) {
  const head = made("tr", {}, ...heads.map((h, k) => made("th", { scope: "col", class: k ? null : "left", text: h })));
  const body = rows.map((row) => made("tr", {}, ...row.map((cell, k) =>
    (k ? made("td", { text: cell }) : made("th", { scope: "row", text: cell })))));
  const whole = made("table", {}, made("thead", {}, head), made("tbody", {}, ...body));
  if (caption) whole.prepend(made("caption", { text: caption }));
  return whole;
}

const fixed = (value, decimals) => (value === null || Number.isNaN(value) ? dash : value.toFixed(decimals).replace(/^-(0\.0+)$/, "$1"));
/* the decimals that numbers have, of which Python gave as many as tell them apart */
const decimalsOf = (values) => Math.max(3, ...values.map((v) => (String(v ?? "").split(".")[1] || "").length));
const three = (value) => fixed(value, 3);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const listen = {};
/* parts tell one another what changed: the threshold, the patch that is shown */
const on = (what, act) => (listen[what] ||= []).push(act);
const tell = (what, value) => (listen[what] || []).forEach((act) => act(value));
