// All homes' agreements at a glance, and the same change for several of them. Nothing is sent as one: each home gets an
// agreement of its own, whole and under its next version, signed in this browser by the planner's key, and answers for
// itself. What was chosen is shown as what it means before it can be signed.

import {command, getAgreements, getHome, getMeaning} from "./api.js";
import {byId, desk, fromTemplate, may, nowUnixS, say, setText, showRows} from "./desk.js";
import {t, tn} from "./say.js";
import {refusal} from "./words.js";

const CONSENT_SOON_MS = 30 * 86400e3;
const AT_ONCE = 4; // homes that are asked at the same time: a silent one takes 12 s to be given up
const WAITS = 30; // times a request is said again when it was one too many

let rows = [];
let edit = () => {};
const chosen = new Set();
let prepared = []; // {gateway, home, agreement, line}: what a signature is asked for
let isBusy = false;

const isSoon = (one) => one.consent_ends !== null && Date.parse(one.consent_ends) - nowUnixS() * 1000 < CONSENT_SOON_MS;
const FILTERS = {
  all: () => true,
  unconfirmed: (one) => !["confirmed", "none"].includes(one.standing),
  consent: isSoon,
  paused: (one) => one.pauses_left.length > 0,
  draft: (one) => one.draft !== null,
  none: (one) => one.agreement === null,
};
const STANDINGS = {
  none: () => "–",
  confirmed: () => t("yes"),
  waiting: (one) => t("version {n} is not confirmed", {n: one.sent_version}),
  other: () => t("it holds another one"),
};

/** The homes that are ticked. */
export const chosenHomes = () => [...chosen];

const shown = () => {
  const words = byId("plan-search").value.trim().toLowerCase();
  const fits = FILTERS[byId("plan-filter").value];
  return rows.filter((one) => fits(one) && [one.gateway, ...one.groups, one.agreement ?? ""].some((text) => text.toLowerCase().includes(words)));
};

// The table

const localTime = (text) => text.replace("T", " ");

function nextText(one) {
  const odd = {gap: t("the night when the clock goes forward"), fold: t("the night when the clock goes back")}[one.night];
  return [localTime(one.local), one.is_paused ? t("paused") : "", odd ?? ""].filter(Boolean).join(" · ");
}

function pauseText(one) {
  return one.is_now ? t("now, until {time}", {time: localTime(one.last)})
    : t("{from} to {until}", {from: localTime(one.first), until: localTime(one.last)});
}

function showList(list, texts) {
  const words = texts.length ? texts : ["–"];
  if (list.dataset.words === words.join("\n")) return;
  list.dataset.words = words.join("\n");
  list.replaceChildren(...words.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

function newRow({gateway}) {
  const row = fromTemplate("plan-row");
  const button = row.querySelector("button");
  button.textContent = gateway;
  button.disabled = !may("planner");
  button.addEventListener("click", () => { edit(gateway); });
  const tick = row.querySelector("input");
  tick.setAttribute("aria-label", t("Choose {gateway}", {gateway}));
  tick.addEventListener("change", () => {
    if (tick.checked) chosen.add(gateway);
    else chosen.delete(gateway);
    unprepare();
    showTable();
  });
  return row;
}

function fillRow(row, one) {
  const cell = (name) => row.querySelector(`.plan-${name}`);
  row.querySelector("input").checked = chosen.has(one.gateway);
  setText(cell("agreement"), one.agreement === null ? "–" : `${one.agreement} v${one.version}`);
  setText(cell("standing"), STANDINGS[one.standing](one));
  cell("standing").classList.toggle("bad", FILTERS.unconfirmed(one));
  showList(cell("upcoming"), one.next.map(nextText));
  showList(cell("pauses-left"), one.pauses_left.map(pauseText));
  setText(cell("consent"), one.consent_ends === null ? "–" : isSoon(one) ? t("{date}, renew it", {date: one.consent_ends}) : one.consent_ends);
  cell("consent").classList.toggle("bad", isSoon(one));
  setText(cell("draft"), one.draft === null ? "–" : t("waits for a signature"));
}

function showTable() {
  const list = shown();
  showRows(byId("plan-rows"), list, ({gateway}) => gateway, newRow, fillRow);
  const all = byId("plan-all");
  all.checked = list.length > 0 && list.every(({gateway}) => chosen.has(gateway));
  all.indeterminate = !all.checked && list.some(({gateway}) => chosen.has(gateway));
  setText(byId("plan-count"), t("{n} of {all} homes shown, {k} chosen.", {n: list.length, all: rows.length, k: chosen.size}));
  showActs();
}

/** The rows of the centre; what is no longer there is no longer chosen. */
export function showOverview(newRows) {
  rows = newRows;
  const known = new Set(rows.map(({gateway}) => gateway));
  for (const gateway of chosen) if (!known.has(gateway)) chosen.delete(gateway);
  showTable();
}

// Several at once

const act = () => byId("bulk-act").value;

function showActs() {
  byId("bulk-span").hidden = act() !== "pause";
  byId("bulk-prepare").disabled = isBusy || chosen.size === 0;
  const send = byId("bulk-send");
  send.hidden = prepared.length === 0;
  send.disabled = isBusy;
  setText(send, tn("Sign and send to {n} home", "Sign and send to {n} homes", prepared.length));
}

/** Something was changed: what was shown no longer is what would be signed. */
function unprepare() {
  if (isBusy) return;
  prepared = [];
  byId("bulk-lines").replaceChildren();
  bulkProblem("");
  showActs();
}

function bulkProblem(text) {
  byId("bulk-problem").hidden = text === "";
  setText(byId("bulk-problem"), text);
}

/** A request of many: one too many in a second is said again a second later. */
export async function patiently(ask) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error?.code !== "rate-limited" || tries >= WAITS) throw error;
      await new Promise((resume) => { setTimeout(resume, 1000); });
    }
  }
}

export async function forEach(items, work) {
  const waiting = [...items];
  const one = async () => { while (waiting.length) await work(waiting.shift()); };
  await Promise.all(Array.from({length: AT_ONCE}, one));
}

/** The pauses that the agreement would have; throws in words when this home is none to do it for. */
function pausesOf(row, content) {
  if (act() === "pause") return [...content.pauses, {from: byId("bulk-from").value, until: byId("bulk-until").value}];
  if (act() === "again") return content.pauses;
  const now = row.pauses_left.filter((one) => one.is_now);
  if (now.length === 0) throw new Error(t("no pause runs now"));
  return content.pauses.filter((pause) => !now.some((one) => one.first === pause.from && one.last === pause.until));
}

function baseOf(row, sent) {
  const isAgain = act() === "again";
  if (row.standing === "waiting" && !isAgain) throw new Error(t("an agreement is not confirmed yet: send that again first"));
  if (row.standing === "confirmed" && isAgain) throw new Error(t("the home has confirmed it: nothing to send"));
  const base = sent.find((one) => isAgain || one.accepted_unix_s !== null);
  if (!base) throw new Error(t("there is no agreement that could be sent: write one first"));
  return base.content;
}

async function prepareOne(row, line) {
  const [home, sent] = await Promise.all([getHome(row.gateway), getAgreements(row.gateway)]);
  const content = baseOf(row, sent);
  const version = Math.max(home.version ?? 0, ...sent.map((one) => one.version)) + 1;
  const agreement = {...content, version, install_epoch: home.install_epoch, pauses: pausesOf(row, content)};
  const meaning = await patiently(() => getMeaning(agreement));
  if (meaning.problem !== null) throw new Error(t("this would be no agreement: {why}", {why: meaning.problem}));
  const until = nowUnixS() + 14 * 86400;
  const soon = meaning.occasions.filter((one) => one.start_unix_s < until);
  const paused = soon.filter((one) => one.is_paused).length;
  line.textContent = t("{gateway}: version {n}; of {all} checks in the next 14 days {k} are paused", {
    gateway: row.gateway, n: version, all: soon.length, k: paused,
  });
  return {gateway: row.gateway, home, agreement, line};
}

async function prepare() {
  unprepare();
  if (act() === "pause" && !(byId("bulk-from").value && byId("bulk-until").value > byId("bulk-from").value)) {
    bulkProblem(t("Write when the pause begins, and when it ends after that."));
    return;
  }
  isBusy = true;
  showActs();
  const found = rows.filter(({gateway}) => chosen.has(gateway)).map((row) => ({row, line: document.createElement("li")}));
  for (const {row, line} of found) line.textContent = `${row.gateway}: …`;
  byId("bulk-lines").replaceChildren(...found.map(({line}) => line));
  const ready = new Map();
  await forEach(found, async ({row, line}) => {
    try {
      ready.set(row.gateway, await prepareOne(row, line));
    } catch (error) {
      line.classList.add("bad");
      line.textContent = t("{gateway}: left out, {why}", {gateway: row.gateway, why: error.code ? refusal(error) : error.message});
    }
  });
  isBusy = false;
  prepared = found.map(({row}) => ready.get(row.gateway)).filter(Boolean);
  showActs();
  if (prepared.length) byId("bulk-send").focus();
}

async function sendAll(reload) {
  isBusy = true;
  showActs();
  let accepted = 0;
  await forEach(prepared, async ({gateway, home, agreement, line}) => {
    line.textContent = t("{gateway}: sent, waiting for the home…", {gateway});
    try {
      await patiently(() => command(desk.operator, home, "agreement.put", {agreement}, "accepted"));
      accepted += 1;
      chosen.delete(gateway);
      line.textContent = t("{gateway}: accepted, version {n}", {gateway, n: agreement.version});
      line.classList.add("good");
    } catch (error) {
      line.textContent = `${gateway}: ${refusal(error)}`;
      line.classList.add("bad");
    }
  });
  const all = prepared.length;
  prepared = [];
  isBusy = false;
  say(t("{n} of {all} homes have accepted.", {n: accepted, all}), accepted === all ? "good" : "bad");
  await reload();
}

/** `write(gateway)` opens one home's form; `reload()` asks the centre anew. */
export function beginOverview({write, reload}) {
  edit = write;
  byId("bulk-box").hidden = !may("planner");
  byId("plan-search").addEventListener("input", showTable);
  byId("plan-filter").addEventListener("change", showTable);
  byId("plan-all").addEventListener("change", (event) => {
    for (const {gateway} of shown()) {
      if (event.target.checked) chosen.add(gateway);
      else chosen.delete(gateway);
    }
    unprepare();
    showTable();
  });
  for (const name of ["bulk-act", "bulk-from", "bulk-until"]) byId(name).addEventListener("change", unprepare);
  byId("bulk-box").addEventListener("submit", (event) => event.preventDefault());
  byId("bulk-prepare").addEventListener("click", () => { void prepare(); });
  byId("bulk-send").addEventListener("click", () => { void sendAll(reload); });
  showActs();
}
