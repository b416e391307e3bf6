(() => {
  "use strict";
  const root = document.documentElement;
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = make("button", "", { type: "button", class: "theme" });
  const label = () => { theme.textContent = dark() ? "light theme" : "dark theme"; };
  theme.onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; label(); };
  label();
  document.querySelector(".top").append(theme);

  if (matchMedia("(max-width: 60rem)").matches) document.querySelector(".toc details").open = false;

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")].filter((part) => !part.closest(".origins"));
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });

  for (const list of document.querySelectorAll(".claims")) {
    const items = [...list.children];
    const verdicts = [...new Set(items.map((item) => item.dataset.verdict))];
    if (verdicts.length < 2) continue;
    const bar = make("div", "", { class: "filters", role: "group", "aria-label": "Show claims" });
    for (const verdict of ["all", ...verdicts]) {
      const count = verdict === "all" ? items.length : items.filter((item) => item.dataset.verdict === verdict).length;
      const button = make("button", `${verdict.replace("_", " ")} (${count})`, { type: "button", "aria-pressed": String(verdict === "all") });
      button.onclick = () => {
        for (const other of bar.children) other.setAttribute("aria-pressed", String(other === button));
        for (const item of items) item.hidden = verdict !== "all" && item.dataset.verdict !== verdict;
      };
      bar.append(button);
    }
    list.before(bar);
  }

  const column = (row, index) => {
    let at = 0;
    for (const cell of row.cells) {
      at += cell.colSpan;
      if (index < at) return cell.colSpan > 1 ? null : cell;
    }
    return null;
  };
  const value = (row, index) => {
    const cell = column(row, index);
    const text = cell ? (cell.dataset.v ?? cell.textContent.trim().replace("\u2212", "-")) : "";
    const number = parseFloat(text);
    return Number.isNaN(number) ? (/^[·–]|^$/.test(text) ? null : text) : number;
  };
  for (const table of document.querySelectorAll("table.grid")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    if (rows.length < 3) continue;
    [...table.tHead.rows[1].cells].forEach((head, index) => {
      const button = make("button", "", { type: "button", title: "sort; a third press restores the order of the paper" });
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const next = { undefined: "descending", descending: "ascending", ascending: "none", none: "descending" }[head.getAttribute("aria-sort") ?? undefined];
        for (const other of table.tHead.rows[1].cells) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const order = next === "none" ? rows : [...rows].sort((a, b) => {
          const [x, y] = [value(a, index), value(b, index)];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
        });
        body.append(...order);
      };
    });
  }
})();
