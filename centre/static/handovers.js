// Hand-overs: who must act and by when, taking one on, and what came of it.

import {acknowledgeHandover, arriveHandover, finishHandover, getDeliveries} from "./api.js";
import {byId, complain, desk, fromTemplate, may, nowUnixS, say, setText, showRows} from "./desk.js";
import {t, tn} from "./say.js";
import {channel, clockTime, OUTCOMES, reason, since, steps} from "./words.js";

/** Whether somebody should have said by now that they took it on, are there, or what came of it. */
const isLate = (one) => nowUnixS() > one.by_unix_s;

/** What is overdue first, then what nobody has taken on, then the rest; each by its time. */
const urgency = (one) => (isLate(one) ? 0 : one.state === "open" ? 1 : 2);
const byUrgency = (one, other) => urgency(one) - urgency(other) || one.by_unix_s - other.by_unix_s;

/** Who must act, and by when. */
function whoText(one) {
  const unit = one.unit ?? t("home care");
  if (one.state === "acknowledged") {
    const by = clockTime(one.by_unix_s);
    if (one.arrived_by) {
      const there = t("{who} is there since {time} · {unit}", {who: one.arrived_by, unit, time: clockTime(one.arrived_unix_s)});
      return isLate(one) ? `${there} · ${t("nobody has said what came of it; due {by}. Call them.", {by})}` : there;
    }
    const taken = t("{who} has taken it on · {unit} · since {time}", {who: one.acknowledged_by, unit, time: clockTime(one.acknowledged_unix_s)});
    return `${taken} · ${isLate(one) ? t("nobody is there; due {by}. Call them.", {by}) : t("there by {by}", {by})}`;
  }
  const late = one.escalations > 0 ? t(" · overdue, told {n} times", {n: one.escalations + 1}) : "";
  return t("{unit} must act · somebody must take it on by {time}{late}", {unit, time: clockTime(one.deadline_unix_s), late});
}

function newRow({id}) {
  const row = fromTemplate("handover-row");
  const outcome = row.querySelector("select");
  const finish = row.querySelector(".handover-finish");
  // Nothing is chosen to begin with: what goes on record is what somebody meant.
  outcome.append(new Option(t("Choose…"), ""), ...OUTCOMES.map(([word, text]) => new Option(text, word)));
  outcome.addEventListener("change", () => { finish.disabled = outcome.value === ""; });
  finish.disabled = true;
  row.querySelector(".handover-take").addEventListener("click", () => { void act(row, () => acknowledgeHandover(id)); });
  row.querySelector(".handover-arrive").addEventListener("click", () => { void act(row, () => arriveHandover(id)); });
  row.querySelector("details").addEventListener("toggle", ({target}) => { if (target.open) void showDeliveries(row, id); });
  finish.addEventListener("click", () => { void act(row, () => finishHandover(id, outcome.value)); });
  return row;
}

async function act(row, how) {
  row.setAttribute("aria-busy", "true");
  try {
    await how();
    say("");
  } catch (error) {
    complain(error);
  }
  row.removeAttribute("aria-busy");
  await desk.refresh();
}

async function showDeliveries(row, id) {
  let told;
  try {
    told = await getDeliveries(id);
  } catch (error) {
    complain(error);
    return;
  }
  row.querySelector(".handover-told").replaceChildren(...told.map((one) => {
    const line = document.createElement("li");
    const time = clockTime(one.done_unix_s ?? one.created_unix_s);
    const values = {unit: one.unit, channel: channel(one.channel), time, n: one.tries};
    line.textContent = one.state === "done"
      ? t("{unit} by {channel}: told {time}", values) : t("{unit} by {channel}: not yet, tried {n} times", values);
    return line;
  }));
}

function fillRow(row, one) {
  const mayAct = may("operator", "home-care");
  const isOpen = one.state === "open";
  const name = `${one.gateway}, ${one.occasion.replace("T", " ")}`;
  row.dataset.state = one.state;
  const pill = row.querySelector(".pill");
  pill.textContent = isLate(one) ? t("Overdue") : isOpen ? t("Act now") : t("Taken on");
  pill.dataset.status = isLate(one) ? "missed" : isOpen ? "due" : "recheck-not-now";
  row.querySelector(".handover-what").textContent = `${name}: ${reason(one.reason)}`;
  row.querySelector(".handover-who").textContent = whoText(one);
  row.querySelector(".handover-steps").textContent = [
    one.steps.length ? t("Agreed: {steps}.", {steps: steps(one.steps)}) : "", since(one.since),
  ].filter(Boolean).join(" ");
  const take = row.querySelector(".handover-take");
  const finish = row.querySelector(".handover-finish");
  const hadTake = take === document.activeElement;
  take.hidden = !isOpen || !mayAct;
  const arrive = row.querySelector(".handover-arrive");
  arrive.hidden = isOpen || !mayAct || one.arrived_by !== null;
  arrive.setAttribute("aria-label", t("I am there: {name}", {name}));
  finish.hidden = row.querySelector(".handover-outcome").hidden = isOpen || !mayAct;
  take.setAttribute("aria-label", t("Acknowledge hand-over: {name}", {name}));
  finish.setAttribute("aria-label", t("Done: {name}", {name}));
  if (hadTake && take.hidden) row.querySelector("select").focus();
}

export function showHandovers() {
  const list = byId("handovers");
  byId("handovers-strip").hidden = desk.handovers.length === 0;
  const hadFocus = list.contains(document.activeElement);
  showRows(list, desk.handovers.toSorted(byUrgency), (one) => one.id, newRow, fillRow);
  if (hadFocus && !list.contains(document.activeElement)) byId(desk.handovers.length ? "handovers-title" : "list-title").focus();
  const open = desk.handovers.filter((one) => one.state === "open" || isLate(one));
  const late = open.filter(isLate).length;
  const lateText = late ? t(", {n} overdue", {n: late}) : "";
  setText(byId("handovers-news"), open.length ? tn("{n} hand-over to act on{late}.", "{n} hand-overs to act on{late}.", open.length, {late: lateText}) : "");
}
