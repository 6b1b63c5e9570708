"use strict";
// Filters and sorts what is on the page already; the state is kept in the address after the #.
(() => {
  const form = document.getElementById("filters");
  const status = document.getElementById("status");
  const fields = ["dataset", "norm", "eps", "family", "q"];
  const entries = document.querySelectorAll("#leaderboard [data-board] tbody[data-group]");
  let sorted = { key: "", direction: "" };

  const byNumberOrName = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  function filter() {
    const wanted = Object.fromEntries(fields.map((name) => [name, form.elements[name].value]));
    const text = wanted.q.trim().toLowerCase();
    const placed = (board) =>
      ["dataset", "norm", "eps"].every(
        (name) => !wanted[name] || !(name in board.dataset) || board.dataset[name] === wanted[name],
      );
    for (const one of document.querySelectorAll("[data-group]")) {
      const { family, text: words } = one.dataset;
      one.toggleAttribute("hidden", (wanted.family && family !== wanted.family) || !words.includes(text));
    }
    for (const board of document.querySelectorAll("[data-board]")) {
      board.hidden = !placed(board) || !board.querySelector("[data-group]:not([hidden])");
    }
    for (const notes of document.querySelectorAll(".notes dl")) {
      notes.parentElement.hidden = !notes.querySelector("[data-group]:not([hidden])");
    }
    for (const empty of document.querySelectorAll(".empty")) {
      empty.hidden = Boolean(empty.parentElement.querySelector("[data-board]:not([hidden])"));
    }
    const shown = [...entries].filter((one) => !one.hidden && !one.closest("[data-board]").hidden).length;
    status.textContent = `${shown} of ${entries.length} shown`;
  }

  function sort() {
    for (const table of document.querySelectorAll("table.sortable")) {
      const headers = [...table.tHead.rows[0].cells];
      const place = headers.findIndex((header) => sorted.key && header.dataset.key === sorted.key);
      for (const [index, header] of headers.entries()) {
        if (index === place) header.setAttribute("aria-sort", sorted.direction);
        else header.removeAttribute("aria-sort");
      }
      const bodies = [...table.tBodies].sort((a, b) => a.dataset.order - b.dataset.order);
      if (place >= 0) {
        const value = (body) => body.rows[0].cells[place].dataset.v;
        const sign = sorted.direction === "descending" ? -1 : 1;
        bodies.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last, either way
          return sign * byNumberOrName(x, y);
        });
      }
      table.append(...bodies);
    }
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of fields) if (form.elements[name].value) state.set(name, form.elements[name].value);
    if (sorted.key) {
      state.set("sort", sorted.key);
      state.set("direction", sorted.direction);
    }
    history.replaceState(null, "", `#${state}`);
  }

  function recall() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return; // the address of a section
    const state = new URLSearchParams(hash);
    for (const name of fields) {
      const field = form.elements[name];
      const value = state.get(name) ?? "";
      field.value = name === "q" || [...field.options].some((option) => option.value === value) ? value : "";
    }
    const direction = state.get("direction") === "ascending" ? "ascending" : "descending";
    sorted = { key: state.get("sort") ?? "", direction };
  }

  function show() {
    filter();
    sort();
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [index, body] of [...table.tBodies].entries()) body.dataset.order = index;
    for (const header of table.tHead.querySelectorAll("th[data-key]")) {
      const button = header.querySelector("button");
      button.disabled = false;
      button.addEventListener("click", () => {
        const { key, first } = header.dataset;
        const turned = sorted.direction === "ascending" ? "descending" : "ascending";
        sorted = { key, direction: sorted.key === key ? turned : first };
        sort();
        remember();
        status.textContent = `sorted by ${button.textContent.trim()}, ${sorted.direction}`;
      });
    }
  }
  form.hidden = false;
  form.addEventListener("input", () => {
    filter();
    remember();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    sorted = { key: "", direction: "" };
    setTimeout(() => {
      show();
      remember();
    });
  });
  addEventListener("hashchange", () => {
    recall();
    show();
  });
  recall();
  show();
})();
