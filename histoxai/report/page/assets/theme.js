{
  const root = document.documentElement, button = byId("theme");
  const memory = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("histoxai-theme");
      localStorage.setItem("histoxai-theme", value);
    } catch { /* a page from disk may have no memory */ }
    return null;
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Switch to the light theme" : "Switch to the dark theme");
    tell("theme");
  };
  const known = memory();
  if (known === "dark" || known === "light") root.dataset.theme = known;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory(root.dataset.theme);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
  /* what scrolls has to be reached by keyboard, and what does not should not be in the way */
  const reach = () => document.querySelectorAll("figure").forEach((f) => {
    if (f.scrollWidth > f.clientWidth) f.tabIndex = 0;
    else f.removeAttribute("tabindex");
  });
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
}
