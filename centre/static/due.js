// One due check as it stands now, in order and in words.

import {desk, nowUnixS} from "./desk.js";
import {t} from "./say.js";
import {clockObstacle, clockTime, disabled, duration, status} from "./words.js";

const SILENT_AFTER_S = 900;
const CLOSES_WITHIN_S = 60;

/**
 * One due check as it stands now: the home's word, moved on by the clock. No check runs longer than agreed, so that a
 * check is running holds for that long after `heardUnixS` and a minute; centre/running.py does the same.
 */
function standing(due, heardUnixS) {
  const now = nowUnixS();
  const opens = due.opens_unix_s;
  const closes = due.closes_unix_s;
  let word = due.status;
  if (["due", "recheck", "soon"].includes(word)) {
    if (due.attempt < 1 && now <= heardUnixS + due.max_s + CLOSES_WITHIN_S) word = "running";
    else if (closes > 0 && now > closes) word = "late";
    else if (word === "soon" && opens <= now) word = "due";
  }
  return {...due, id: `${due.line} ${due.occasion}`, word, canStart: ["due", "recheck"].includes(word) && opens <= now};
}

const ORDER = ["late", "missed", "running", "recheck", "due", "soon", "paused", "done"];

function byUrgency(one, other) {
  if (one.canStart !== other.canStart) return one.canStart ? -1 : 1;
  if (one.canStart) return one.closes_unix_s - other.closes_unix_s;
  return ORDER.indexOf(one.word) - ORDER.indexOf(other.word) || one.opens_unix_s - other.opens_unix_s;
}

/** One check of the queue, in the words of a home's own list. */
export const ofItem = (item) => standing({
  line: item.line, occasion: item.occasion, attempt: item.word === "running" ? 0 : item.attempt, max_s: item.max_s,
  status: item.word === "overdue" ? "missed" : item.word === "running" ? "due" : item.word,
  opens_unix_s: item.opens_unix_s ?? 0, closes_unix_s: item.by_unix_s ?? 0,
}, item.word === "running" ? Infinity : 0);

export const dueOf = (home) => home.due.map((one) => standing(one, home.heard_unix_s ?? 0)).sort(byUrgency);
export const chosenDue = (home) => dueOf(home).find((one) => one.id === desk.chosen);

export function whenText(due) {
  const now = nowUnixS();
  if (due.canStart) return t("until {time} · {left} left", {time: clockTime(due.closes_unix_s), left: duration(due.closes_unix_s - now)});
  if (["soon", "recheck"].includes(due.word)) {
    return t("{from}–{until} · in {wait}", {
      from: clockTime(due.opens_unix_s), until: clockTime(due.closes_unix_s), wait: duration(due.opens_unix_s - now),
    });
  }
  if (["late", "missed"].includes(due.word) && due.closes_unix_s > 0) return t("ended {time}", {time: clockTime(due.closes_unix_s)});
  const startsMs = Date.parse(due.occasion);
  return Number.isNaN(startsMs) ? due.occasion : clockTime(startsMs / 1000);
}

export function noteText(home) {
  if (home.disabled) return disabled(home.disabled);
  if (!home.online) return t("Not connected");
  if (home.heard_unix_s === null) return t("Has not reported yet");
  const silentS = nowUnixS() - home.heard_unix_s;
  if (silentS > SILENT_AFTER_S) return t("Silent for {time}", {time: duration(silentS)});
  return clockObstacle(home.clock) ? t("Clock not certain") : "";
}

export function fillPill(pill, due) {
  pill.textContent = due ? status(due.word) : "–";
  pill.dataset.status = due ? (due.canStart ? due.word : `${due.word}-not-now`) : "none";
}
