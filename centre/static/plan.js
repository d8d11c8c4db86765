// The planner: an agreement is written in a form, shown as what it means, signed with the planner's own key in this
// browser, sent to the home, and confirmed by the home's signed answer. The rules are the centre's and the device's; this
// module knows none of them.

import {command, endDraft, getAgreements, getDrafts, getHome, getMeaning, getPlan, sendTrust} from "./api.js";
import {beginBroker} from "./broker.js";
import {byId, complain, desk, fromTemplate, may, say, setText} from "./desk.js";
import {verify} from "./jws.js";
import {beginOverview, showOverview} from "./overview.js";
import {language, t} from "./say.js";
import {clockTime, refusal} from "./words.js";

const plan = {gateway: null, version: 0, epoch: 0, draft: null, drafts: [], agreement: null};
const form = () => byId("plan-form");
const field = (name, root = form()) => root.querySelector(`[name="${name}"]`);
const value = (name, root) => field(name, root).value.trim();
const orNull = (text) => (text === "" ? null : text);

const OWN = "own";
const WEEKLY = /^FREQ=WEEKLY;BYDAY=((?:MO|TU|WE|TH|FR|SA|SU)(?:,(?:MO|TU|WE|TH|FR|SA|SU))*)$/;

// The list

export async function showPlan() {
  if (!form().hidden) return; // somebody writes: nothing is taken from under their hands
  let rows;
  try {
    [rows, plan.drafts] = await Promise.all([getPlan(), may("planner") ? getDrafts() : []]);
  } catch (error) {
    complain(error);
    return;
  }
  byId("trust-box").hidden = !may("steward");
  showOverview(rows);
}

// The form

/** A list of known words, with a field beside it for a word of the municipality's own. */
function beginChoice(name, root) {
  const list = field(name, root);
  list.addEventListener("change", () => { field(`${name}-own`, root).closest("label").hidden = list.value !== OWN; });
}

function putChoice(name, code, root) {
  const list = field(name, root);
  const isKnown = code !== OWN && [...list.options].some((one) => one.value === code);
  list.value = isKnown ? code : OWN;
  field(`${name}-own`, root).value = isKnown ? "" : code;
  field(`${name}-own`, root).closest("label").hidden = isKnown;
}

const takeChoice = (name, root) => value(value(name, root) === OWN ? `${name}-own` : name, root);

function showRule(row) {
  const often = field("often", row).value;
  row.querySelector(".weekdays").hidden = often !== "weekly";
  row.querySelector(".rule").hidden = often !== "rule";
}

/** A recurrence as a choice; a rule that neither is every day nor certain weekdays stays as it is written. */
function putRule(row, rule) {
  const days = WEEKLY.exec(rule)?.[1].split(",") ?? [];
  field("often", row).value = rule === "FREQ=DAILY" ? "daily" : days.length > 0 ? "weekly" : "rule";
  for (const box of row.querySelectorAll("[name=day]")) box.checked = days.includes(box.value);
  field("rrule", row).value = rule;
  showRule(row);
}

function takeRule(row) {
  const often = value("often", row);
  if (often === "daily") return "FREQ=DAILY";
  if (often === "rule") return value("rrule", row);
  return `FREQ=WEEKLY;BYDAY=${[...row.querySelectorAll("[name=day]:checked")].map((box) => box.value).join(",")}`;
}

function addLine({rrule, ...values}) {
  const row = addRow("line", values);
  putRule(row, rrule);
  field("often", row).addEventListener("change", () => showRule(row));
}

function addStep({do: word, ...values}) {
  const row = addRow("step", values);
  putChoice("do", word, row);
  beginChoice("do", row);
}

function addRow(kind, values) {
  const row = fromTemplate(`plan-${kind}`);
  for (const [name, each] of Object.entries(values)) field(name, row).value = each ?? "";
  row.querySelector(".remove").addEventListener("click", () => { row.remove(); changed(); });
  byId(`plan-${kind}s`).append(row);
  return row;
}

const rowsOf = (kind) => [...byId(`plan-${kind}s`).children];

function putConsent(name, consent) {
  const fields = {given: consent?.given, until: consent?.until, cref: consent?.ref};
  for (const [key, each] of Object.entries(fields)) field(`${name}-${key}`).value = each ?? "";
  putChoice(`${name}-how`, consent?.how ?? "");
}

function takeConsent(name) {
  const consent = {given: orNull(value(`${name}-given`)), how: orNull(takeChoice(`${name}-how`)), ref: orNull(value(`${name}-cref`))};
  const until = orNull(value(`${name}-until`));
  const withdrawn = plan.agreement?.consent[name]?.withdrawn ?? null;
  return {...consent, ...(until && {until}), ...(withdrawn && {withdrawn})};
}

function fill(agreement) {
  plan.agreement = agreement;
  field("agreement").value = agreement.agreement;
  field("timezone").value = agreement.timezone;
  field("valid-from").value = agreement.valid.from;
  field("valid-until").value = agreement.valid.until;
  field("resident-ref").value = agreement.resident_ref;
  putConsent("resident", agreement.consent.resident);
  putConsent("cohabitant", agreement.consent.cohabitant);
  field("cohabitant").checked = agreement.consent.cohabitant !== null;
  field("picture").value = agreement.picture.mode;
  field("lamp").value = agreement.lamp;
  for (const kind of ["line", "step", "pause"]) byId(`plan-${kind}s`).replaceChildren();
  for (const line of agreement.lines) {
    addLine({
      id: line.id, rrule: line.rrule, start: line.start, window: line.window_min, max: line.max_s,
      after: line.recheck.after_min, times: line.recheck.times,
    });
  }
  for (const step of agreement.if_not_seen) addStep({do: step.do, unit: step.unit, within: step.within_min});
  for (const pause of agreement.pauses) addRow("pause", {from: pause.from, until: pause.until});
}

function written() {
  const exceptions = Object.fromEntries((plan.agreement?.lines ?? []).map((line) => [line.id, line.exceptions]));
  return {
    agreement: value("agreement"),
    version: plan.version,
    gateway: plan.gateway,
    install_epoch: plan.epoch,
    timezone: value("timezone"),
    valid: {from: value("valid-from"), until: value("valid-until")},
    consent: {resident: takeConsent("resident"), cohabitant: field("cohabitant").checked ? takeConsent("cohabitant") : null},
    lines: rowsOf("line").map((row) => ({
      id: value("id", row),
      rrule: takeRule(row),
      start: value("start", row),
      window_min: Number(value("window", row)),
      max_s: Number(value("max", row)),
      recheck: {after_min: Number(value("after", row)), times: Number(value("times", row))},
      ...(exceptions[value("id", row)]?.length && {exceptions: exceptions[value("id", row)]}),
    })),
    picture: {mode: value("picture")},
    lamp: value("lamp"),
    if_not_seen: rowsOf("step").map((row) => ({
      do: takeChoice("do", row), within_min: Number(value("within", row)), ...(value("unit", row) && {unit: value("unit", row)}),
    })),
    pauses: rowsOf("pause").map((row) => ({from: value("from", row), until: value("until", row)})),
    resident_ref: value("resident-ref"),
  };
}

function blank() {
  const today = new Date().toISOString().slice(0, 10);
  const inAYear = new Date(Date.now() + 364 * 86400e3).toISOString().slice(0, 10);
  return {
    agreement: `a-${plan.gateway.slice(3)}`, timezone: "Europe/Stockholm", valid: {from: today, until: inAYear}, resident_ref: "",
    consent: {resident: {given: today, how: "signed-at-installation", ref: ""}, cohabitant: null},
    lines: [{id: "night-1", rrule: "FREQ=DAILY", start: "23:30", window_min: 30, max_s: 60, recheck: {after_min: 15, times: 1}}],
    picture: {mode: "clear"}, lamp: "dim", if_not_seen: [{do: "call-resident", within_min: 5}], pauses: [],
  };
}

async function edit(gateway) {
  try {
    const [home, sent] = await Promise.all([getHome(gateway), getAgreements(gateway)]);
    plan.gateway = gateway;
    plan.epoch = home.install_epoch;
    plan.version = Math.max(home.version ?? 0, ...sent.map((one) => one.version)) + 1;
    plan.draft = plan.drafts.find((one) => one.gateway === gateway) ?? null;
    const newest = sent.find((one) => one.accepted_unix_s !== null);
    fill(plan.draft?.content ?? newest?.content ?? blank());
  } catch (error) {
    complain(error);
    return;
  }
  setText(byId("plan-home"), t("{gateway}, version {n}", {gateway, n: plan.version}));
  show(true);
  changed();
  byId("plan-home").focus();
}

function show(isForm) {
  form().hidden = !isForm;
  byId("plan-list").hidden = isForm;
}

/** What was shown no longer is what is written: it has to be looked at again before it is signed. */
function changed() {
  byId("plan-send").disabled = true;
  byId("plan-meaning").hidden = true;
}

function problem(text) {
  byId("plan-problem").hidden = text === "";
  byId("plan-problem").textContent = text;
}

function whenText(one) {
  const time = `${one.local.replace("T", " ")} · ${one.line}`;
  const night = {gap: t("the night when the clock goes forward"), fold: t("the night when the clock goes back")}[one.night];
  return [time, one.is_paused ? t("paused") : "", night ?? ""].filter(Boolean).join(" · ");
}

async function showMeaning() {
  if (rowsOf("line").some((row) => value("often", row) === "weekly" && !row.querySelector("[name=day]:checked"))) {
    problem(t("Choose the weekdays of each check."));
    return;
  }
  let meaning;
  try {
    meaning = await getMeaning(written());
  } catch (error) {
    complain(error);
    return;
  }
  problem(meaning.problem === null ? "" : t("This is not an agreement yet: {why}", {why: meaning.problem}));
  byId("plan-meaning").hidden = meaning.problem !== null;
  byId("plan-send").disabled = meaning.problem !== null;
  if (meaning.problem !== null) return;
  const days = Array.from({length: 7}, (_, day) => new Date(Date.UTC(2024, 0, 1 + day)));
  byId("plan-weekdays").replaceChildren(...days.map((day) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = day.toLocaleDateString(language === "sv" ? "sv-SE" : "en-GB", {weekday: "short", timeZone: "UTC"});
    return cell;
  }));
  const firstDay = meaning.occasions[0]?.start_unix_s ?? 0;
  const week = meaning.occasions.filter((one) => one.start_unix_s < firstDay + 7 * 86400);
  byId("plan-week").replaceChildren(...days.map((_, day) => {
    const cell = document.createElement("td");
    cell.textContent = week.filter((one) => one.weekday === day).map((one) => `${one.local.slice(11)}${one.is_paused ? ` (${t("paused")})` : ""}`).join(", ") || "–";
    return cell;
  }));
  byId("plan-next").replaceChildren(...meaning.occasions.map((one) => {
    const line = document.createElement("li");
    line.textContent = whenText(one);
    line.classList.toggle("odd", one.night !== null);
    return line;
  }));
}

async function send() {
  byId("plan-send").disabled = true;
  try {
    const home = await getHome(plan.gateway);
    await command(desk.operator, home, "agreement.put", {agreement: written()}, "accepted");
    if (plan.draft) await endDraft(plan.draft.id);
    say(t("The home has accepted the agreement, version {n}.", {n: plan.version}), "good");
    show(false);
    await showPlan();
  } catch (error) {
    problem(refusal(error));
    byId("plan-send").disabled = false;
  }
}

// Trust

async function sendTrustToAll() {
  const statement = byId("trust-text").value.trim();
  const list = byId("trust-answers");
  list.replaceChildren();
  const rows = await getPlan().catch((error) => { complain(error); return []; });
  for (const {gateway} of rows) {
    const line = document.createElement("li");
    try {
      const [{reply}, home] = await Promise.all([sendTrust(gateway, statement), getHome(gateway)]);
      const {kind, message} = await verify(reply, home.device_jwk, ["accepted", "refused"]);
      line.textContent = kind === "accepted" ? t("{gateway}: accepted", {gateway}) : `${gateway}: ${refusal({code: message.code})}`;
    } catch (error) {
      line.textContent = `${gateway}: ${refusal(error)}`;
    }
    list.append(line);
  }
  say(t("Sent to {n} homes at {time}.", {n: rows.length, time: clockTime(Date.now() / 1000)}));
}

export function beginPlan() {
  beginBroker();
  beginOverview({write: (gateway) => { void edit(gateway); }, reload: showPlan});
  for (const name of ["resident-how", "cohabitant-how"]) beginChoice(name);
  form().addEventListener("input", changed);
  form().addEventListener("submit", (event) => event.preventDefault());
  byId("plan-back").addEventListener("click", () => { show(false); problem(""); void showPlan(); });
  byId("plan-add-line").addEventListener("click", () => {
    addLine({id: `night-${rowsOf("line").length + 1}`, rrule: "FREQ=DAILY", start: "02:30", window: 30, max: 60, after: 15, times: 1});
    changed();
  });
  byId("plan-add-step").addEventListener("click", () => { addStep({do: "visit", within: 45}); changed(); });
  byId("plan-add-pause").addEventListener("click", () => { addRow("pause", {}); changed(); });
  byId("plan-show").addEventListener("click", () => { void showMeaning(); });
  byId("plan-send").addEventListener("click", () => { void send(); });
  byId("trust-send").addEventListener("click", () => { void sendTrustToAll(); });
}
