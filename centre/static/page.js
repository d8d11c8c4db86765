// The console's page: the list of homes, one home, one check at a time. What it shows comes from the centre; what it
// plays comes only from a home whose device key has signed for it (check.js).

import {
  acknowledgeHandover, command, finishHandover, getConfig, getGrant, getHandovers, getHomes, getLog, logOut, RefusedError,
} from "./api.js";
import {Check} from "./check.js";
import {forgetKey, operatorKey} from "./jws.js";
import {
  alarm, clockObstacle, clockTime, disabled, duration, ending, LOGGED_KINDS, logged, nextStep, OUTCOMES, reason, refusal, since,
  status, steps, view,
} from "./words.js";

const RENEW_BEFORE_S = 6;
const ASK_AGAIN_S = 15;
const IDLE_LIMIT_S = 600;
const SILENT_AFTER_S = 900;
const LOG_ROWS = 30;

window.tillsyn = {firstFrameMs: null, frames: 0};

const byId = (id) => document.getElementById(id);
const nowMs = () => performance.now();

const page = {
  config: null,
  operator: null, // {key, grant}
  grantExpUnixS: 0,
  clockOffsetS: 0,
  homes: [],
  handovers: [],
  gateway: null, // the home that is open
  challenge: null, // {message, heardMs}
  challengeError: null,
  challengeAskedMs: -Infinity,
  askingFor: null, // the home that a challenge is under way to; another home need not wait for a silent one
  chosen: null, // "line occasion" of the due check that Start would open
  check: null,
  isStarting: false,
  isSending: false,
  awaited: null, // {check, sinceMs}: ended here, not yet confirmed by the home
  visibleSinceMs: 0,
  inputMs: 0,
};

const nowUnixS = () => Date.now() / 1000 + page.clockOffsetS;
const openHome = () => page.homes.find((home) => home.gateway === page.gateway);

function say(text, tone = "plain") {
  const message = byId("message");
  message.dataset.tone = tone;
  // Only a change is announced to screen readers; the same words again are no news.
  if (message.textContent !== text) message.textContent = text;
}

const complain = (error) => say(refusal(error instanceof RefusedError ? error : {}), "bad");

// What is due

/** One due check as it stands now: the home's word, moved on by the clock. */
function standing(due) {
  const now = nowUnixS();
  const opens = due.opens_unix_s;
  const closes = due.closes_unix_s;
  let word = due.status;
  if (["due", "recheck", "soon"].includes(word)) {
    if (due.attempt < 1) word = "running";
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

const dueOf = (home) => home.due.map(standing).sort(byUrgency);

function whenText(due) {
  const now = nowUnixS();
  if (due.canStart) return `until ${clockTime(due.closes_unix_s)} · ${duration(due.closes_unix_s - now)} left`;
  if (["soon", "recheck"].includes(due.word)) {
    return `${clockTime(due.opens_unix_s)}–${clockTime(due.closes_unix_s)} · in ${duration(due.opens_unix_s - now)}`;
  }
  if (["late", "missed"].includes(due.word) && due.closes_unix_s > 0) return `ended ${clockTime(due.closes_unix_s)}`;
  const startsMs = Date.parse(due.occasion);
  return Number.isNaN(startsMs) ? due.occasion : clockTime(startsMs / 1000);
}

function noteText(home) {
  if (home.disabled) return disabled(home.disabled);
  if (!home.online) return "Not connected";
  if (home.heard_unix_s === null) return "Has not reported yet";
  const silentS = nowUnixS() - home.heard_unix_s;
  if (silentS > SILENT_AFTER_S) return `Silent for ${duration(silentS)}`;
  return clockObstacle(home.clock) ? "Clock not certain" : "";
}

// Hand-overs

/** Who must act, and by when. */
function handoverWho(one) {
  const unit = one.unit ?? "home care";
  if (one.state === "acknowledged") return `${one.acknowledged_by} has taken it on · ${unit} · since ${clockTime(one.acknowledged_unix_s)}`;
  const late = one.escalations > 0 ? ` · overdue, told ${one.escalations + 1} times` : "";
  return `${unit} must act · somebody must take it on by ${clockTime(one.deadline_unix_s)}${late}`;
}

function newHandoverRow(id) {
  const row = byId("handover-row").content.firstElementChild.cloneNode(true);
  row.dataset.id = id;
  const outcome = row.querySelector("select");
  const finish = row.querySelector(".handover-finish");
  // Nothing is chosen to begin with: what goes on record is what somebody meant.
  outcome.append(new Option("Choose…", ""), ...OUTCOMES.map(([word, text]) => new Option(text, word)));
  outcome.addEventListener("change", () => { finish.disabled = outcome.value === ""; });
  finish.disabled = true;
  row.querySelector(".handover-take").addEventListener("click", () => { void act(row, () => acknowledgeHandover(id)); });
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
  await refresh();
}

function showHandovers() {
  const list = byId("handovers");
  const mayAct = page.config.roles.includes("operator");
  byId("handovers-strip").hidden = page.handovers.length === 0;
  // As the homes' rows: kept and moved, so that the keyboard focus stays where it is.
  const kept = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const hadFocus = list.contains(document.activeElement);
  for (const [place, one] of page.handovers.entries()) {
    const row = kept.get(one.id) ?? newHandoverRow(one.id);
    kept.delete(one.id);
    const isOpen = one.state === "open";
    const isLate = isOpen && nowUnixS() > one.deadline_unix_s;
    const name = `${one.gateway}, ${one.occasion.replace("T", " ")}`;
    row.dataset.state = one.state;
    row.querySelector(".pill").textContent = isOpen ? (isLate ? "Overdue" : "Act now") : "Taken on";
    row.querySelector(".pill").dataset.status = isLate ? "missed" : isOpen ? "due" : "recheck-not-now";
    row.querySelector(".handover-what").textContent = `${name}: ${reason(one.reason)}`;
    row.querySelector(".handover-who").textContent = handoverWho(one);
    row.querySelector(".handover-steps").textContent = [one.steps.length ? `Agreed: ${steps(one.steps)}.` : "", since(one.since)]
      .filter(Boolean).join(" ");
    const take = row.querySelector(".handover-take");
    const finish = row.querySelector(".handover-finish");
    const hadTake = take === document.activeElement;
    take.hidden = !isOpen || !mayAct;
    finish.hidden = row.querySelector(".handover-outcome").hidden = isOpen || !mayAct;
    take.setAttribute("aria-label", `Acknowledge hand-over: ${name}`);
    finish.setAttribute("aria-label", `Done: ${name}`);
    if (hadTake && take.hidden) row.querySelector("select").focus();
    if (list.children[place] !== row) {
      const focused = row.contains(document.activeElement) ? document.activeElement : null;
      list.insertBefore(row, list.children[place] ?? null);
      focused?.focus();
    }
  }
  for (const row of kept.values()) row.remove();
  if (hadFocus && !list.contains(document.activeElement)) byId(page.handovers.length ? "handovers-title" : "list-title").focus();
  const open = page.handovers.filter((one) => one.state === "open");
  const late = open.filter((one) => nowUnixS() > one.deadline_unix_s).length;
  const words = open.length === 0 ? "" : `${open.length} hand-over${open.length > 1 ? "s" : ""} to take on${late ? `, ${late} overdue` : ""}.`;
  const spoken = byId("handovers-news");
  if (spoken.textContent !== words) spoken.textContent = words;
}

// The list

function showList() {
  showHandovers();
  const list = byId("homes");
  const rows = page.homes.map((home) => ({home, due: dueOf(home)}));
  rows.sort((one, other) => {
    if (!one.due.length || !other.due.length) return other.due.length - one.due.length;
    return byUrgency(one.due[0], other.due[0]) || one.home.gateway.localeCompare(other.home.gateway);
  });
  byId("no-homes").hidden = page.homes.length > 0;
  // Rows are kept and moved, not made anew: the keyboard focus stays where it is.
  const kept = new Map([...list.children].map((row) => [row.dataset.gateway, row]));
  for (const [place, {home, due}] of rows.entries()) {
    let row = kept.get(home.gateway);
    kept.delete(home.gateway);
    if (!row) {
      row = byId("home-row").content.firstElementChild.cloneNode(true);
      row.dataset.gateway = home.gateway;
      row.querySelector("a").href = `#${home.gateway}`;
      row.querySelector("a").dataset.gateway = home.gateway;
      row.querySelector(".home-name").textContent = home.gateway;
    }
    const first = due[0];
    fillPill(row.querySelector(".pill"), first);
    row.querySelector(".home-due").textContent = first ? whenText(first) : "Nothing agreed around now";
    const note = noteText(home);
    row.querySelector(".home-note").textContent = note;
    row.querySelector(".home-note").classList.toggle("bad", note !== "");
    if (list.children[place] !== row) {
      const hadFocus = row.contains(document.activeElement);
      list.insertBefore(row, list.children[place] ?? null);
      if (hadFocus) row.querySelector("a").focus();
    }
  }
  for (const row of kept.values()) row.remove();
}

function fillPill(pill, due) {
  pill.textContent = due ? status(due.word) : "–";
  pill.dataset.status = due ? (due.canStart ? due.word : `${due.word}-not-now`) : "none";
}

// One home

function showHome() {
  const home = openHome();
  if (!home) return;
  const note = noteText(home);
  const online = byId("home-online");
  online.textContent = note || "Connected";
  online.dataset.status = note ? "missed" : "done-not-now";
  showDue(home);
  const obstacle = startObstacle();
  byId("start").disabled = obstacle !== "";
  byId("start-reason").textContent = obstacle;
  const isRunning = page.check !== null;
  byId("start").hidden = isRunning;
  byId("start-reason").hidden = isRunning;
  byId("in-check").hidden = !isRunning;
  byId("close").hidden = !isRunning;
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.disabled = !page.check?.isLive || page.isSending;
  }
  showCover();
}

function showDue(home) {
  const due = dueOf(home);
  if (!page.check && !page.isStarting && !due.some((one) => one.id === page.chosen)) page.chosen = due[0]?.id ?? null;
  const list = byId("due");
  const ids = due.map((one) => one.id).join("\n");
  if (list.dataset.ids !== ids) {
    list.dataset.ids = ids;
    list.replaceChildren(...due.map((one) => {
      const row = byId("due-row").content.firstElementChild.cloneNode(true);
      row.querySelector("input").value = one.id;
      return row;
    }));
  }
  due.forEach((one, place) => {
    const row = list.children[place];
    const radio = row.querySelector("input");
    radio.checked = one.id === page.chosen;
    radio.disabled = page.check !== null || page.isStarting;
    fillPill(row.querySelector(".pill"), one);
    row.querySelector(".due-when").textContent = whenText(one);
    row.querySelector(".due-note").textContent = one.attempt > 1
      ? `look ${one.attempt}, at most ${one.max_s} s` : `at most ${one.max_s} s`;
  });
}

const chosenDue = (home) => dueOf(home).find((one) => one.id === page.chosen);

/** Why Start is not possible now, in words; "" when it is. */
function startObstacle() {
  const home = openHome();
  if (home.disabled) return refusal(new RefusedError("home-disabled"));
  if (!page.config.roles.includes("operator")) return "Your account may not make checks. Ask a colleague with the operator role.";
  if (!page.operator) return "Waiting for your shift's grant from the centre…";
  if (page.isStarting) return "Opening…";
  if (page.challengeError) return refusal(page.challengeError);
  if (!page.challenge) return home.online ? "Asking the home…" : "The home is not connected. Asking it all the same…";
  const clock = clockObstacle(page.challenge.message.clock);
  if (clock) return clock;
  const due = chosenDue(home);
  if (!due) return "No check is agreed around now.";
  if (due.canStart) return "";
  switch (due.word) {
    case "soon": case "recheck": return `Opens at ${clockTime(due.opens_unix_s)}, in ${duration(due.opens_unix_s - nowUnixS())}.`;
    case "done": return "This check is done.";
    case "paused": return "Paused: the resident or home care has paused checks.";
    case "running": return "A check is running in this home just now.";
    default: return "The agreed time is over. Follow your routine for a check that could not be made.";
  }
}

function showCover() {
  const check = page.check;
  let words = "";
  if (!check && !page.isStarting) {
    words = page.awaited ? "Picture ended. Waiting for the home to confirm that its camera is off…" : "No check is running";
  } else if (page.isSending) words = "Sending your verdict…";
  else if (document.hidden) words = "Covered: this tab is hidden";
  else if (!check?.isLive) words = "Opening… the camera is turning towards the room";
  else if (check.isStale || check.lastFrameMs < page.visibleSinceMs) {
    words = "Covered: this picture is older than 2 seconds. Wait for the next one, or choose Unsure.";
  }
  byId("cover").hidden = words === "";
  if (byId("cover-text").textContent !== words) byId("cover-text").textContent = words;
}

async function showLog() {
  const home = openHome();
  if (!home) return;
  let records;
  try {
    records = await getLog(home.gateway, LOG_ROWS * 3);
  } catch {
    return; // the log comes with the next news; a message here would hide a more important one
  }
  if (page.gateway !== home.gateway) return;
  const rows = records.filter((row) => row.kind === "closed" || LOGGED_KINDS.has(row.kind)).map((row) => ({
    unixS: row.time_lo_unix_s, watchedS: row.watched_s, who: row.who, what: logged(row), check: row.kind === "closed" ? row.check : null,
  }));
  const recorded = new Set(rows.map((row) => row.check));
  // The home's signed outcome comes before its ledger line; both say the same.
  for (const one of openHome().last) {
    if (!recorded.has(one.check)) {
      rows.push({unixS: one.heard_unix_s, watchedS: one.watched_s, who: one.who, what: ending(one.why), check: one.check});
    }
  }
  rows.sort((one, other) => (other.unixS ?? 0) - (one.unixS ?? 0));
  byId("no-log").hidden = rows.length > 0;
  byId("log").replaceChildren(...rows.slice(0, LOG_ROWS).map((row) => {
    const line = byId("log-row").content.firstElementChild.cloneNode(true);
    const cells = line.children;
    cells[0].textContent = row.unixS === null ? "–" : clockTime(row.unixS);
    cells[1].textContent = row.watchedS === null ? "–" : duration(row.watchedS);
    cells[2].textContent = row.who ?? "–";
    cells[3].textContent = row.what;
    return line;
  }));
}

// The challenge: fetched when a home is opened, so that Start needs no round trip for it

function challengeAgeS() {
  return page.challenge ? (nowMs() - page.challenge.heardMs) / 1000 : Infinity;
}

const isChallengeFresh = (spareS) => page.challenge !== null && challengeAgeS() < page.challenge.message.life_s - spareS;

async function fetchChallenge() {
  const home = openHome();
  if (!home || home.disabled || page.askingFor === home.gateway || !page.operator) return;
  page.askingFor = home.gateway;
  page.challengeAskedMs = nowMs();
  try {
    // Its life is counted from the asking, which is never later than the home's own count.
    const heardMs = nowMs();
    const message = await command(page.operator, home, "check.challenge", {}, "check.challenged");
    if (page.gateway !== home.gateway) return;
    page.challenge = {message, heardMs};
    page.challengeError = null;
    Object.assign(openHome() ?? {}, {due: message.due, clock: message.clock, agreement: message.agreement, version: message.version});
  } catch (error) {
    if (page.gateway !== home.gateway) return;
    page.challenge = null;
    page.challengeError = error instanceof RefusedError ? error : new RefusedError("centre-unreachable");
  } finally {
    if (page.askingFor === home.gateway) page.askingFor = null;
    if (page.gateway === home.gateway) showHome();
  }
}

function keepChallenge() {
  const home = openHome();
  if (!home || page.check || page.isStarting || document.hidden || page.askingFor === home.gateway) return;
  if (!page.config.roles.includes("operator") || home.disabled) return;
  if (page.challengeError || !page.challenge) {
    if (nowMs() - page.challengeAskedMs > ASK_AGAIN_S * 1000) void fetchChallenge();
    return;
  }
  // Each challenge makes the home get ready; a page that nobody touches does not keep it so all night.
  const isIdle = nowMs() - page.inputMs > IDLE_LIMIT_S * 1000;
  if (!isIdle && chosenDue(home)?.canStart && !isChallengeFresh(RENEW_BEFORE_S)) void fetchChallenge();
}

// The check

async function start() {
  const home = openHome();
  if (!home || page.check || page.isStarting || startObstacle()) return;
  page.isStarting = true;
  page.awaited = null;
  say("");
  byId("fingerprint").textContent = "";
  byId("view-signal").textContent = "";
  showHome();
  if (!isChallengeFresh(2)) await fetchChallenge();
  const due = chosenDue(home);
  if (page.gateway !== home.gateway || !page.challenge || !due) {
    page.isStarting = false;
    showHome();
    return;
  }
  const challenge = page.challenge.message;
  page.challenge = null; // single use, whatever comes of it
  const check = new Check({
    operator: page.operator,
    home,
    config: page.config,
    video: byId("video"),
    on: {
      sealed: (fingerprint) => {
        byId("fingerprint").textContent = `Picture sealed for this browser; device signature verified · ${fingerprint.slice(0, 23)}…`;
      },
      live: () => {
        say("Live. Look, then choose Seen, Not seen or Unsure.");
        showHome();
        // Not on a button: the Enter that opened, pressed twice, must not become a verdict.
        byId("verdicts").focus();
      },
      stale: showCover,
      view: (word) => { byId("view-signal").textContent = view(word); },
      time: showTime,
      ended: (error) => checkEnded(check, error),
    },
  });
  page.check = check;
  page.isStarting = false;
  showHome();
  await check.start({due, challenge});
}

function showTime(leftS, maxS) {
  const left = byId("time-left");
  const words = `${Math.ceil(leftS)} s`;
  if (left.textContent !== words) {
    left.textContent = words;
    if (words === "10 s" && page.check?.isLive) say("10 seconds left. Choose Seen, Not seen or Unsure.");
  }
  left.classList.toggle("short", leftS <= 10);
  byId("time-bar").value = maxS > 0 ? leftS / maxS : 0;
  showCover();
}

function checkEnded(check, error) {
  if (page.check !== check) return;
  page.check = null;
  page.isSending = false;
  byId("fingerprint").textContent = "";
  byId("view-signal").textContent = "";
  if (error) complain(error);
  // After a forged answer its warning stays; otherwise the home's word on the end replaces what is said here.
  if (check.id !== null && error?.code !== "answer-fingerprint") {
    page.awaited = {gateway: check.home.gateway, check: check.id, sinceMs: nowMs()};
    if (!error) say("Ended. Waiting for the home to confirm that the camera is off…");
  }
  showHome();
  byId("start").focus();
  if (page.gateway) void fetchChallenge();
}

async function giveVerdict(verdict) {
  const check = page.check;
  if (!check?.isLive || page.isSending) return;
  page.isSending = true;
  showHome();
  try {
    await check.giveVerdict(verdict);
  } catch (error) {
    page.isSending = false;
    if (page.check === check) {
      complain(error);
      showHome();
    }
  }
}

/** The home's signed word on how a check ended, by way of the centre. */
function showOutcome(closed) {
  const isRunning = page.check !== null && page.check.id === closed.check;
  const isAwaited = page.awaited?.check === closed.check;
  if (!isRunning && !isAwaited) return;
  if (isRunning) page.check.end(null);
  page.awaited = null;
  const parked = closed.parked ? "The camera is off and turned away." : "The camera did not confirm its resting place: report a fault.";
  const words = [`${ending(closed.why)}.`, `Watched for ${duration(closed.watched_s)}.`, parked, nextStep(closed)];
  say(words.filter(Boolean).join(" "), closed.parked ? (closed.why === "seen" ? "good" : "plain") : "bad");
}

function expectOutcome() {
  if (!page.awaited) return;
  const waitedMs = nowMs() - page.awaited.sinceMs;
  const known = page.homes.find((home) => home.gateway === page.awaited.gateway)?.last.find((one) => one.check === page.awaited.check);
  if (known) {
    showOutcome(known);
  } else if (waitedMs > 25000) {
    page.awaited = null;
    say("The home has not confirmed the end of the check. It closes by itself; if the home stays silent, follow your routine.", "bad");
  } else if (waitedMs > 3000) {
    void refresh(); // the news may have been lost with a connection
  }
}

// News

let refreshing = null;

/** Fetch the homes; calls while one is under way are served by one more. */
function refresh() {
  refreshing ??= (async () => {
    await new Promise((resolve) => { setTimeout(resolve, 100); });
    try {
      [page.homes, page.handovers] = await Promise.all([getHomes(), getHandovers()]);
      connected(true);
      show();
      await showLog();
    } catch (error) {
      if (error.code === "not-logged-in") complain(error);
      connected(false);
    } finally {
      refreshing = null;
    }
  })();
  return refreshing;
}

function connected(is) {
  const line = byId("connection");
  const words = is ? "Connected to the centre" : "No connection to the centre. Trying again…";
  if (line.textContent !== words) line.textContent = words;
  line.classList.toggle("bad", !is);
}

function listen() {
  const source = new EventSource("/api/events");
  source.onopen = () => { void refresh(); };
  source.onerror = () => {
    connected(false);
    // An answer that is no event stream ends it for good, as after the login has run out.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { void refresh(); listen(); }, 5000);
  };
  source.addEventListener("home", () => { void refresh(); });
  source.addEventListener("closed", ({data}) => {
    showOutcome(JSON.parse(data));
    void refresh();
  });
  source.addEventListener("handover", () => { void refresh(); });
  source.addEventListener("alarm", ({data}) => {
    byId("alarm").textContent = alarm(JSON.parse(data));
    byId("alarm").hidden = false;
  });
}

// The page

function show() {
  const isHome = openHome() !== undefined;
  byId("list-view").hidden = isHome;
  byId("home-view").hidden = !isHome;
  document.title = isHome ? `${page.gateway} – Night checks` : "Night checks";
  if (isHome) showHome();
  else showList();
}

function follow() {
  const gateway = decodeURIComponent(location.hash.slice(1));
  const home = page.homes.find((one) => one.gateway === gateway);
  const next = home ? gateway : null;
  if (next !== page.gateway) {
    page.check?.close();
    Object.assign(page, {gateway: next, challenge: null, challengeError: null, chosen: null, isStarting: false});
    say("");
    byId("alarm").hidden = true;
    byId("log").replaceChildren();
    byId("fingerprint").textContent = "";
  }
  show();
  if (home) {
    byId("home-title").textContent = gateway;
    byId("home-title").focus();
    void fetchChallenge();
    void showLog();
  } else {
    (document.querySelector(".home") ?? byId("list-title")).focus();
  }
}

function onKey(event) {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  page.inputMs = nowMs();
  const isControl = event.target.closest?.("a, button, summary") !== null;
  if (page.gateway === null) {
    if (event.target.closest?.("select")) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const rows = [...document.querySelectorAll(".home")];
      const at = rows.indexOf(document.activeElement);
      const next = event.key === "ArrowDown" ? Math.min(rows.length - 1, at + 1) : Math.max(0, at - 1);
      rows[next]?.focus();
      event.preventDefault();
    }
    return;
  }
  const verdict = {s: "seen", n: "not_seen", u: "unsure"}[event.key.toLowerCase()];
  if (event.key === "Escape") {
    if (page.check) page.check.close();
    else location.hash = "";
    event.preventDefault();
  } else if (event.key === "Enter" && !isControl) {
    void start();
    event.preventDefault();
  } else if (verdict && page.check) {
    void giveVerdict(verdict);
    event.preventDefault();
  }
}

function tick() {
  if (nowUnixS() > page.grantExpUnixS - 600 && !page.check) void renewGrant();
  keepChallenge();
  expectOutcome();
  show();
}

let grantAskedMs = -Infinity;

async function renewGrant() {
  if (nowMs() - grantAskedMs < ASK_AGAIN_S * 1000) return;
  grantAskedMs = nowMs();
  const key = await operatorKey(page.config.who);
  const {grant, exp_unix_s: expUnixS} = await getGrant(key.jwk);
  page.operator = {key, grant};
  page.grantExpUnixS = expUnixS;
}

function watermark() {
  const words = `${page.config.who} · ${clockTime(nowUnixS())}`;
  byId("watermark").replaceChildren(...Array.from({length: 9}, () => {
    const span = document.createElement("span");
    span.textContent = words;
    return span;
  }));
}

async function begin() {
  page.config = await getConfig();
  page.clockOffsetS = page.config.now_unix_s - Date.now() / 1000;
  page.inputMs = nowMs();
  watermark();
  setInterval(watermark, 30000);
  [page.homes, page.handovers] = await Promise.all([getHomes(), getHandovers(), renewGrant()]);
  connected(true);
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", () => { page.inputMs = nowMs(); });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      page.visibleSinceMs = Infinity;
    } else {
      page.visibleSinceMs = nowMs();
      page.check?.renewLease();
      keepChallenge();
    }
    showCover();
  });
  window.addEventListener("pagehide", () => page.check?.close());
  byId("start").addEventListener("click", () => { void start(); });
  byId("close").addEventListener("click", () => page.check?.close());
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => { void giveVerdict(button.dataset.verdict); });
  }
  byId("due").addEventListener("change", (event) => {
    page.chosen = event.target.value;
    showHome();
  });
  byId("video").addEventListener("contextmenu", (event) => event.preventDefault());
  byId("log-out").addEventListener("click", async () => {
    page.check?.close();
    try {
      await forgetKey(page.config.who);
      await logOut();
    } finally {
      location.replace("/");
    }
  });
  follow();
  listen();
  setInterval(tick, 1000);
}

begin().catch((error) => {
  complain(error);
  connected(false);
});
