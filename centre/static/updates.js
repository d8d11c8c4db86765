// Rollouts of updates: the plan is shown before anything begins, and what was begun can be held, let go on and ended.

import {changeRollout, getExecutions, getRollouts, planRollout, startRollout} from "./api.js";
import {byId, complain, fromTemplate, may, say, setText, showRows} from "./desk.js";
import {t, tn} from "./say.js";

const BAD = ["failed", "timed-out", "rejected"];
const RINGS = {
  lab: t("Lab"), "one-percent": "1 %", "ten-percent": "10 %", half: "50 %", all: t("All"),
};
const STATUSES = {
  "in-progress": t("under way"),
  "awaiting-approval": t("waits for somebody to let the next ring begin"),
  paused: t("paused"),
  halted: t("halted: too many homes failed or fell silent"),
  completed: t("done"),
  canceled: t("ended before it was done"),
};
const ACTS = {
  pause: [t("Pause"), ["in-progress", "awaiting-approval"]],
  resume: [t("Go on"), ["paused", "halted"]],
  approve: [t("Let the next ring begin"), ["awaiting-approval"]],
  abort: [t("End it"), ["in-progress", "awaiting-approval", "paused", "halted"]],
};
const plan = {offer: "", name: ""};
const steers = () => may("steward", "release");

export async function showUpdates() {
  let rows;
  try {
    rows = await getRollouts();
  } catch (error) {
    complain(error);
    return;
  }
  byId("updates-none").hidden = rows.length > 0;
  showRows(byId("updates-list"), rows, ({id}) => id, make, fill);
}

function make({id}) {
  const row = fromTemplate("rollout-row");
  for (const [act, [words]] of Object.entries(ACTS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.act = act;
    button.dataset.testid = `rollout-${act}`;
    button.textContent = words;
    button.addEventListener("click", () => { void change(id, act); });
    row.querySelector(".acts").append(button);
  }
  row.querySelector("details").addEventListener("toggle", ({target}) => { if (target.open) void listBad(row, id); });
  return row;
}

function fill(row, one) {
  setText(row.querySelector("h4"), t("Version {version} for {board}", {version: one.version, board: one.compatible}));
  row.querySelector(".table-frame").setAttribute("aria-label", t("Version {version} for {board}", {version: one.version, board: one.compatible}));
  const status = row.querySelector(".rollout-status");
  status.classList.toggle("bad", one.status === "halted");
  setText(status, STATUSES[one.status] ?? one.status);
  const body = row.querySelector("tbody");
  showRows(body, one.rings, ({ring}) => ring, () => {
    const line = document.createElement("tr");
    for (let place = 0; place < 6; place += 1) line.append(document.createElement(place === 0 ? "th" : "td"));
    line.firstChild.scope = "row";
    return line;
  }, (line, {ring, homes, status: counts}) => {
    const of = (...words) => words.reduce((sum, word) => sum + (counts[word] ?? 0), 0);
    const texts = [RINGS[ring] ?? ring, homes, of("queued"), of("in-progress"), of("succeeded"), of(...BAD)];
    texts.forEach((text, place) => { setText(line.children[place], String(text)); });
    line.lastChild.classList.toggle("bad", of(...BAD) > 0);
  });
  for (const button of row.querySelectorAll(".acts button")) button.hidden = !steers() || !ACTS[button.dataset.act][1].includes(one.status);
}

async function listBad(row, id) {
  try {
    const bad = (await getExecutions(id)).filter(({status}) => BAD.includes(status));
    row.querySelector("details ul").replaceChildren(...bad.map(({gateway, status, why}) => {
      const line = document.createElement("li");
      line.textContent = status === "timed-out" ? t("{home}: silent", {home: gateway}) : t("{home}: {why}", {home: gateway, why: why ?? status});
      return line;
    }));
  } catch (error) {
    complain(error);
  }
}

async function change(id, act) {
  try {
    await changeRollout(id, act);
    say("");
  } catch (error) {
    complain(error);
  }
  await showUpdates();
}

async function showPlan() {
  try {
    plan.offer = byId("updates-offer").value.trim();
    const shown = await planRollout(plan.offer);
    plan.name = shown.plan;
    setText(byId("updates-plan-title"), t("Version {version} for {board}", {version: shown.version, board: shown.compatible}));
    setText(byId("updates-plan-words"), `${tn("{n} home gets it.", "{n} homes get it.", shown.homes)} ${t("At least {n} days, when all goes well.", {n: shown.least_days})}`);
    byId("updates-plan-rings").replaceChildren(...shown.rings.map(({ring, homes}) => {
      const line = document.createElement("li");
      line.textContent = `${RINGS[ring] ?? ring}: ${homes}`;
      return line;
    }));
    byId("updates-plan").hidden = false;
    byId("updates-plan-title").focus();
    say("");
  } catch (error) {
    byId("updates-plan").hidden = true;
    complain(error);
  }
}

async function startPlan() {
  try {
    await startRollout(plan.offer, plan.name);
    byId("updates-plan").hidden = true;
    byId("updates-offer").value = "";
    say(t("The rollout has begun."));
  } catch (error) {
    complain(error);
  }
  await showUpdates();
}

export function beginUpdates() {
  byId("updates-form")?.addEventListener("submit", (event) => { event.preventDefault(); void showPlan(); });
  byId("updates-start")?.addEventListener("click", () => { void startPlan(); });
}
