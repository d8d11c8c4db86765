// The queue: what is to be done, most urgent first.

import {takeFault} from "./api.js";
import {byId, complain, desk, fromTemplate, may, nowUnixS, showRows} from "./desk.js";
import {fillPill, ofItem, whenText} from "./due.js";
import {showHandovers} from "./handovers.js";
import {t, tn} from "./say.js";
import {advice, clockTime, duration, fault} from "./words.js";

function newRow(item) {
  if (item.kind === "fault") return newFaultRow(item);
  const row = fromTemplate("home-row");
  const link = row.querySelector("a");
  link.href = `#${item.gateway}`;
  link.dataset.gateway = item.gateway;
  row.querySelector(".home-name").textContent = item.gateway;
  return row;
}

function newFaultRow({gateway, word}) {
  const row = fromTemplate("fault-row");
  row.querySelector("a").href = `#${gateway}`;
  row.querySelector("a").textContent = gateway;
  row.querySelector("button").addEventListener("click", async () => {
    try {
      await takeFault(gateway, word);
    } catch (error) {
      complain(error);
    }
    await desk.refresh();
  });
  return row;
}

function fillRow(row, item) {
  if (item.kind === "fault") {
    fillFaultRow(row, item);
    return;
  }
  const due = ofItem(item);
  fillPill(row.querySelector(".pill"), due);
  row.querySelector(".home-due").textContent = whenText(due);
  const isOthers = item.claimed_by !== null && item.claimed_by !== desk.config.who;
  row.dataset.claimed = String(isOthers);
  const note = isOthers ? t("{who} has it", {who: item.claimed_by}) : item.attempt > 1 ? t("look {n}", {n: item.attempt}) : "";
  row.querySelector(".home-note").textContent = note;
}

function fillFaultRow(row, item) {
  const pill = row.querySelector(".pill");
  pill.textContent = item.claimed_by ? t("Seen to") : t("Fault");
  pill.dataset.status = item.claimed_by ? "done-not-now" : item.rank === "fault-now" ? "missed" : "recheck-not-now";
  row.querySelector(".fault-what").textContent = t("{what} · for {time}", {
    what: fault(item.word), time: duration(nowUnixS() - item.since_unix_s),
  });
  row.querySelector(".fault-advice").textContent = item.claimed_by
    ? t("{who} sees to it.", {who: item.claimed_by}) : advice(item.word);
  const take = row.querySelector("button");
  take.hidden = item.claimed_by !== null || !may("operator", "steward", "installer");
  take.setAttribute("aria-label", t("I see to it: {gateway}, {what}", {gateway: item.gateway, what: fault(item.word)}));
}

export function showQueue() {
  showHandovers();
  const items = desk.queue.items.filter((item) => item.kind !== "handover");
  byId("no-homes").hidden = items.length > 0;
  showRows(byId("homes"), items, (item) => item.id, newRow, fillRow);
  const all = Object.entries(desk.queue.counts).filter(([rank]) => !rank.startsWith("handover") && rank !== "taken");
  const more = all.reduce((sum, [, count]) => sum + count, 0) - items.filter((item) => item.rank !== "taken").length;
  byId("queue-more").textContent = more > 0 ? tn("and {n} more below these", "and {n} more below these", more) : "";
  byId("queue-at").textContent = t("As of {time}.", {time: clockTime(desk.queue.now_unix_s ?? nowUnixS())});
}

/** Arrow keys move between the rows; true when the key was one of them. */
export function moveByKey(event) {
  if (!["ArrowDown", "ArrowUp"].includes(event.key) || event.target.closest?.("select, input, textarea")) return false;
  const rows = [...document.querySelectorAll("#homes a, #handovers button:not([hidden]):not(:disabled)")];
  const at = rows.indexOf(document.activeElement);
  rows[event.key === "ArrowDown" ? Math.min(rows.length - 1, at + 1) : Math.max(0, at - 1)]?.focus();
  return true;
}
