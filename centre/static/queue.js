// The list: what is to be done, most urgent first.

import {byId, desk, fromTemplate, showRows} from "./desk.js";
import {byUrgency, dueOf, fillPill, noteText, whenText} from "./due.js";
import {showHandovers} from "./handovers.js";
import {t} from "./say.js";

function newRow({home}) {
  const row = fromTemplate("home-row");
  const link = row.querySelector("a");
  link.href = `#${home.gateway}`;
  link.dataset.gateway = home.gateway;
  row.querySelector(".home-name").textContent = home.gateway;
  return row;
}

function fillRow(row, {home, due: [first]}) {
  fillPill(row.querySelector(".pill"), first);
  row.querySelector(".home-due").textContent = first ? whenText(first) : t("Nothing agreed around now");
  const note = noteText(home);
  row.querySelector(".home-note").textContent = note;
  row.querySelector(".home-note").classList.toggle("bad", note !== "");
}

export function showQueue() {
  showHandovers();
  const rows = desk.homes.map((home) => ({home, due: dueOf(home)}));
  rows.sort((one, other) => {
    if (!one.due.length || !other.due.length) return other.due.length - one.due.length;
    return byUrgency(one.due[0], other.due[0]) || one.home.gateway.localeCompare(other.home.gateway);
  });
  byId("no-homes").hidden = desk.homes.length > 0;
  showRows(byId("homes"), rows, ({home}) => home.gateway, newRow, fillRow);
}

/** Arrow keys move between the rows; true when the key was one of them. */
export function moveByKey(event) {
  if (!["ArrowDown", "ArrowUp"].includes(event.key) || event.target.closest?.("select")) return false;
  const rows = [...document.querySelectorAll(".home")];
  const at = rows.indexOf(document.activeElement);
  rows[event.key === "ArrowDown" ? Math.min(rows.length - 1, at + 1) : Math.max(0, at - 1)]?.focus();
  return true;
}
