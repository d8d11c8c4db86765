// Rollouts of updates: the plan is shown before anything begins, and what was begun can be held, let go on and ended.

import {changeRollout, getExecutions, getRollouts, getUpdates, planRollout, startRollout} from "./api.js";
import {byId, complain, desk, fromTemplate, may, say, setText, showRows} from "./desk.js";
import {t, tn} from "./say.js";
import {clockTime} from "./words.js";

const BAD = ["failed", "timed-out", "rejected"];
/** Homes listed by name; a fleet has thousands. */
const MOST = 50;
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
// Source: gateway/update/machine.py and gateway/protocol/message.py, `UpdatePhase`.
const PHASES = {
  offered: t("Offered"), taken: t("Offered"), downloading: t("Downloading"), installed: t("Installed"), rebooting: t("Restarting"),
  gate: t("On trial"), good: t("Good"), "fell-back": t("Fell back"), failed: t("Failed"), refused: t("Refused"),
  stale: t("No word of updates for 14 days"),
};
// Source: gateway/update/gate.py, `Lack`; gateway/update/slot.py, `Note`; gateway/update/machine.py;
// gateway/services/upkeep.py; gateway/edge/installer_rauc.py, `_WHY`; gateway/core/refusal.py.
const WHYS = {
  silent: t("silent"),
  "up-to-date": t("up to date already"),
  "no-guard": t("its guard did not speak"),
  "not-parked": t("its camera was not at rest"),
  "guard-unwell": t("its guard found something wrong"),
  "ledger-broken": t("its log did not verify"),
  "eye-unwell": t("its camera could not be readied"),
  "no-broker": t("it did not reach the centre"),
  "no-tunnel": t("it did not reach its tunnel"),
  "not-steady": t("something in it kept restarting"),
  "fell-back": t("the new system did not hold, and the old one runs"),
  "gave-way": t("the new system failed again and again, and the old one runs"),
  "did-not-boot": t("the new system did not start"),
  "fell-back-before": t("it fell back from this bundle before"),
  deadline: t("no quiet time before the deadline"),
  "too-slow": t("the download was too slow"),
  "broke-off": t("the download broke off"),
  damaged: t("its bundle is damaged"),
  "old-version": t("its bundle has an older version than it may take"),
  "plain-format": t("its bundle has a format that is not allowed"),
  "unknown-signer": t("its bundle is signed by nobody it knows"),
  lost: t("it was not told how the trial ended"),
  busy: t("it was busy"),
  "not-installable": t("its bundle can't be installed"),
  "wrong-compatible": t("its bundle is for another board"),
  "manifest-differs": t("its bundle is not the one that was offered"),
  "wrong-version": t("its bundle has another version"),
  "size-differs": t("its bundle has another size"),
  "wrong-device": t("the offer is not for it"),
  "stale-version": t("the offer is too old for it"),
  "bad-signature": t("a signature does not verify there"),
  "unknown-key": t("it does not know the release key"),
};
const inWords = (why) => WHYS[why] ?? why.replaceAll("-", " ");
const title = ({version, compatible}) => t("Version {version} for {board}", {version, board: compatible});
const plan = {offer: "", name: ""};
const steers = () => may("steward", "release");

/** Called by the centre's news of a rollout. */
export function updatesChanged() {
  if (desk.gateway === null && desk.view === "updates") void showUpdates();
}

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
    button.addEventListener("click", () => {
      // What is ended can't be taken up again: it takes a second press, and the first one says so.
      if (act === "abort" && button.dataset.sure !== "yes") {
        button.dataset.sure = "yes";
        button.textContent = t("End it for good");
        say(t("Press once more to end it. The homes that wait get nothing; it can't be taken up again."));
        return;
      }
      void change(id, act);
    });
    button.addEventListener("blur", () => {
      delete button.dataset.sure;
      button.textContent = words;
    });
    row.querySelector(".acts").append(button);
  }
  row.querySelector("details").addEventListener("toggle", ({target}) => { if (target.open) void listHomes(row, id); });
  return row;
}

function fill(row, one) {
  setText(row.querySelector("h4"), title(one));
  row.querySelector(".table-frame").setAttribute("aria-label", title(one));
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
  if (row.querySelector("details").open) void listHomes(row, one.id);
  for (const button of row.querySelectorAll(".acts button")) button.hidden = !steers() || !ACTS[button.dataset.act][1].includes(one.status);
}

async function listHomes(row, id) {
  try {
    const homes = await getExecutions(id);
    // What went wrong first, then what is under way; a home where all went well is one of a number.
    const shown = [...homes.filter(({status}) => BAD.includes(status)), ...homes.filter(({status}) => status === "in-progress")];
    showRows(row.querySelector("details ul"), shown.slice(0, MOST), ({gateway}) => gateway, ({gateway}) => {
      const line = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "link";
      button.textContent = gateway;
      button.addEventListener("click", () => { void showHistory(gateway); });
      line.append(button, document.createElement("span"));
      return line;
    }, (line, {status, phase, why}) => {
      const words = status === "in-progress" ? PHASES[phase] ?? t("No answer yet") : inWords(why ?? status);
      setText(line.lastChild, `: ${words}`);
      line.lastChild.classList.toggle("bad", BAD.includes(status));
    });
    setText(row.querySelector(".rollout-rest"), t("Beside these: {n}, of which {k} are done.", {
      n: homes.length - Math.min(shown.length, MOST), k: homes.filter(({status}) => status === "succeeded").length,
    }));
  } catch (error) {
    complain(error);
  }
}

async function showHistory(gateway) {
  try {
    const lines = await getUpdates(gateway);
    byId("updates-home").value = gateway;
    setText(byId("updates-history-title"), t("What {home} has reported", {home: gateway}));
    byId("updates-history-rows").replaceChildren(...lines.map(({at_unix_s: atUnixS, version, running, phase, why, percent}) => {
      const line = document.createElement("tr");
      const how = phase === "downloading" && percent !== null ? `${PHASES.downloading}, ${percent} %` : PHASES[phase] ?? phase;
      for (const text of [clockTime(atUnixS), version, running, how, why === null ? "–" : inWords(why)]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        line.append(cell);
      }
      return line;
    }));
    byId("updates-no-history").hidden = lines.length > 0;
    byId("updates-history-frame").hidden = lines.length === 0;
    byId("updates-history").hidden = false;
    byId("updates-history-title").focus();
    say("");
  } catch (error) {
    byId("updates-history").hidden = true;
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
    setText(byId("updates-plan-title"), title(shown));
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
  byId("updates-look").addEventListener("submit", (event) => { event.preventDefault(); void showHistory(byId("updates-home").value.trim()); });
}
