// One home: its agreed checks, the challenge that is fetched before it is needed, one check at a time, and the log.

import {claim, command, getIceServers, getLog, RefusedError, release} from "./api.js";
import {Check, prepare} from "./check.js";
import {byId, complain, desk, fromTemplate, may, nowMs, nowUnixS, openHome, say, setText} from "./desk.js";
import {chosenDue, dueOf, fillPill, noteText, whenText} from "./due.js";
import {t} from "./say.js";
import {clockObstacle, clockTime, decimal, duration, ending, isLogged, lastView, logged, nextStep, refusal, view} from "./words.js";

const RENEW_BEFORE_S = 6;
const ASK_AGAIN_S = 15;
const IDLE_LIMIT_S = 600;
const LOG_ROWS = 30;
const CLAIM_EVERY_MS = 30000;
const CLAIM_AGAIN_MS = 5000;

Object.assign(desk, {
  challenge: null, // {message, heardMs, iceServers}
  challengeError: null,
  challengeAskedMs: -Infinity,
  askingFor: null, // the home that a challenge is under way to; another home need not wait for a silent one
  chosen: null, // "line occasion" of the due check that Start would open
  isSending: false,
  claimed: null, // {gateway, line, occasion, atMs}: the check that is ours to make
  claimAskedMs: -Infinity,
  claimedBy: null, // whose it is, if it is another's
  awaited: null, // {check, sinceMs}: ended here, not yet confirmed by the home
  visibleSinceMs: 0,
});

export function showHome() {
  const home = openHome();
  if (!home) {
    showUnknownHome();
    return;
  }
  const note = noteText(home);
  const online = byId("home-online");
  online.textContent = note || (home.tunnel === "fallback" ? t("Connected without its tunnel (slower)") : t("Connected"));
  online.dataset.status = note ? "missed" : "done-not-now";
  showDue(home);
  setText(byId("agreement-line"), home.agreement === null ? t("No agreement is in force.") : t("Agreement {name}, version {n}.", {
    name: home.agreement, n: home.version,
  }));
  const obstacle = startObstacle();
  byId("start").disabled = obstacle !== "";
  byId("start-reason").textContent = obstacle;
  const isRunning = desk.check !== null;
  byId("start").hidden = isRunning;
  byId("start-reason").hidden = isRunning;
  byId("in-check").hidden = !isRunning;
  byId("close").hidden = !isRunning;
  if (!isRunning) setText(byId("view-signal"), lastView(home.signal));
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.disabled = !desk.check?.isLive || desk.isSending;
  }
  showCover();
}

/** The open home before the centre's answer: nothing of the one before it stays, and nothing can be pressed. */
function showUnknownHome() {
  setText(byId("home-online"), t("Asking the centre…"));
  byId("home-online").dataset.status = "none";
  setText(byId("agreement-line"), "");
  setText(byId("view-signal"), "");
  byId("due").dataset.ids = "";
  byId("due").replaceChildren();
  byId("start").disabled = true;
  byId("start").hidden = false;
  byId("start-reason").hidden = false;
  byId("start-reason").textContent = t("Asking the centre…");
  byId("in-check").hidden = true;
  byId("close").hidden = true;
  for (const button of document.querySelectorAll("[data-verdict]")) button.disabled = true;
  showCover();
}

function showDue(home) {
  const due = dueOf(home);
  if (!desk.check && !desk.isStarting && !due.some((one) => one.id === desk.chosen)) desk.chosen = due[0]?.id ?? null;
  const list = byId("due");
  const ids = due.map((one) => one.id).join("\n");
  if (list.dataset.ids !== ids) {
    list.dataset.ids = ids;
    list.replaceChildren(...due.map((one) => {
      const row = fromTemplate("due-row");
      row.querySelector("input").value = one.id;
      return row;
    }));
  }
  due.forEach((one, place) => {
    const row = list.children[place];
    const radio = row.querySelector("input");
    radio.checked = one.id === desk.chosen;
    radio.disabled = desk.check !== null || desk.isStarting;
    fillPill(row.querySelector(".pill"), one);
    row.querySelector(".due-when").textContent = `${one.line} · ${whenText(one)}`;
    row.querySelector(".due-note").textContent = one.attempt > 1
      ? t("look {n}, at most {max} s", {n: one.attempt, max: one.max_s}) : t("at most {max} s", {max: one.max_s});
  });
}

/** Why Start is not possible now, in words; "" when it is. */
function startObstacle() {
  const home = openHome();
  if (home.disabled) return refusal(new RefusedError("home-disabled"));
  if (!may("operator")) return t("Your account may not make checks. Ask a colleague with the operator role.");
  if (!desk.operator) return t("Waiting for your shift's grant from the centre…");
  if (desk.isStarting) return t("Opening…");
  if (desk.challengeError) return refusal(desk.challengeError);
  if (!desk.challenge) return home.online ? t("Asking the home…") : t("The home is not connected. Asking it all the same…");
  const clock = clockObstacle(desk.challenge.message.clock);
  if (clock) return clock;
  const due = chosenDue(home);
  if (!due) return t("No check is agreed around now.");
  if (desk.claimedBy) return t("{who} is about to make this check. Take another one.", {who: desk.claimedBy});
  if (due.canStart) return "";
  switch (due.word) {
    case "soon": case "recheck": 
      return t("Opens at {time}, in {wait}.", {time: clockTime(due.opens_unix_s), wait: duration(due.opens_unix_s - nowUnixS())});
    case "done": return t("This check is done.");
    case "paused": return t("Paused: the resident or home care has paused checks.");
    case "running": return t("A check is running in this home just now.");
    default: return t("The agreed time is over. Follow your routine for a check that could not be made.");
  }
}

export function showCover() {
  const check = desk.check;
  let words = "";
  if (!check && !desk.isStarting) {
    words = desk.awaited 
      ? t("Picture ended. Waiting for the home to confirm that its camera is off…") : t("No check is running");
  } else if (desk.isSending) words = t("Sending your verdict…");
  else if (document.hidden) words = t("Covered: this tab is hidden");
  else if (!document.hasFocus()) words = t("Covered: click here to look on");
  else if (!check?.isLive) words = t("Opening… the camera is turning towards the room");
  else if (check.isStale || check.lastFrameMs < desk.visibleSinceMs) {
    words = t("Covered: this picture is older than 2 seconds. Wait for the next one, or choose Unsure.");
  }
  byId("cover").hidden = words === "";
  byId("watermark").hidden = words !== "";
  setText(byId("cover-text"), words);
}

export async function showLog() {
  const home = openHome();
  if (!home) return;
  let records;
  try {
    records = await getLog(home.gateway, LOG_ROWS * 3);
  } catch {
    return; // the log comes with the next news; a message here would hide a more important one
  }
  if (desk.gateway !== home.gateway) return;
  const rows = records.filter(isLogged).map((row) => ({
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
    const line = fromTemplate("log-row");
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
  return desk.challenge ? (nowMs() - desk.challenge.heardMs) / 1000 : Infinity;
}

const isChallengeFresh = (spareS) => desk.challenge !== null && challengeAgeS() < desk.challenge.message.life_s - spareS;

/** Forget the challenge, and give back what was prepared for it. */
export function dropChallenge() {
  desk.challenge?.prepared?.close();
  desk.challenge = null;
}

export async function fetchChallenge() {
  const home = openHome();
  if (!home || home.disabled || desk.askingFor === home.gateway || !desk.operator) return;
  desk.askingFor = home.gateway;
  desk.challengeAskedMs = nowMs();
  try {
    // Its life is counted from the asking, which is never later than the home's own count.
    const heardMs = nowMs();
    const [message, iceServers] = await Promise.all([
      command(desk.operator, home, "check.challenge", {}, "check.challenged"),
      getIceServers(home.gateway),
    ]);
    if (desk.gateway !== home.gateway) return;
    Object.assign(openHome() ?? {}, {
      due: message.due, clock: message.clock, agreement: message.agreement, version: message.version, heard_unix_s: nowUnixS(),
    });
    dropChallenge();
    // An address at the relay is asked for only where Start can be pressed.
    const canStart = chosenDue(openHome() ?? home)?.canStart;
    desk.challenge = {message, heardMs, iceServers, prepared: canStart ? prepare(desk.config, iceServers) : null};
    desk.challengeError = null;
  } catch (error) {
    if (desk.gateway !== home.gateway) return;
    dropChallenge();
    desk.challengeError = error instanceof RefusedError ? error : new RefusedError("centre-unreachable");
  } finally {
    if (desk.askingFor === home.gateway) desk.askingFor = null;
    if (desk.gateway === home.gateway) showHome();
  }
}

export function keepChallenge() {
  const home = openHome();
  if (!home || desk.check || desk.isStarting || document.hidden || desk.askingFor === home.gateway) return;
  if (!may("operator") || home.disabled) return;
  if (desk.challengeError || !desk.challenge) {
    if (nowMs() - desk.challengeAskedMs > ASK_AGAIN_S * 1000) void fetchChallenge();
    return;
  }
  // Each challenge makes the home get ready; a page that nobody touches does not keep it so all night.
  const isIdle = nowMs() - desk.inputMs > IDLE_LIMIT_S * 1000;
  if (!isIdle && chosenDue(home)?.canStart && !isChallengeFresh(RENEW_BEFORE_S)) void fetchChallenge();
}

// Claims: what one operator is about to do, no other takes

/** Claim the chosen check while this page has it open, and let go of any other. */
export async function keepClaim() {
  const home = openHome();
  const due = home && may("operator") && !document.hidden && nowMs() - desk.inputMs < IDLE_LIMIT_S * 1000 ? chosenDue(home) : undefined;
  const wanted = due?.canStart ? {gateway: home.gateway, line: due.line, occasion: due.occasion} : null;
  const held = desk.claimed;
  const isSame = held && wanted && held.gateway === wanted.gateway && held.line === wanted.line && held.occasion === wanted.occasion;
  if (isSame && nowMs() - held.atMs < CLAIM_EVERY_MS) return;
  if (wanted && desk.claimedBy && nowMs() - desk.claimAskedMs < CLAIM_AGAIN_MS) return;
  if (held && !isSame) {
    desk.claimed = null;
    release(held.gateway, held).catch(() => {}); // it lapses by itself
  }
  if (!wanted) {
    desk.claimedBy = null;
    return;
  }
  desk.claimed = {...wanted, atMs: nowMs()};
  desk.claimAskedMs = nowMs();
  try {
    await claim(wanted.gateway, wanted);
    desk.claimedBy = null;
  } catch (error) {
    desk.claimed = null;
    desk.claimedBy = error.code === "claimed" ? (error.message.split(" ")[0] || "–") : null;
  }
  if (desk.gateway === wanted.gateway) showHome();
}

// The check

export async function start() {
  const home = openHome();
  if (!home || desk.check || desk.isStarting || startObstacle()) return;
  desk.isStarting = true;
  desk.awaited = null;
  say("");
  byId("fingerprint").textContent = "";
  byId("view-signal").textContent = "";
  showHome();
  if (!isChallengeFresh(2)) await fetchChallenge();
  const due = chosenDue(home);
  if (desk.gateway !== home.gateway || !desk.challenge || !due) {
    desk.isStarting = false;
    showHome();
    return;
  }
  const {message: challenge, iceServers, prepared} = desk.challenge;
  desk.challenge = null; // single use, whatever comes of it; what was prepared is the check's now
  const check = new Check({
    operator: desk.operator,
    home,
    config: desk.config,
    video: byId("video"),
    still: byId("still"),
    on: {
      sealed: (fingerprint) => {
        byId("fingerprint").textContent = t(
          "Picture sealed for this browser; device signature verified · {fingerprint}…", {fingerprint: fingerprint.slice(0, 23)},
        );
      },
      live: () => {
        say(t("Live. Look, then choose Seen, Not seen or Unsure."));
        showHome();
        // Not on a button: the Enter that opened, pressed twice, must not become a verdict.
        byId("verdicts").focus();
      },
      stale: showCover,
      view: (signal) => setText(byId("view-signal"), view(signal.view)),
      form: showForm,
      age: showAge,
      time: showTime,
      ended: (error) => checkEnded(check, error),
    },
  });
  desk.check = check;
  desk.isStarting = false;
  showHome();
  await check.start({due, challenge, prepared: prepared ?? prepare(desk.config, iceServers)});
}

/** In which form the picture comes: words only where it is not video. */
function showForm(isStills) {
  setText(byId("form"), isStills ? t("Still pictures, about one a second: the line to the home is too slow for video.") : "");
}

function showAge(ms) {
  setText(byId("age"), ms === null ? "" : t("Picture {age} s old", {age: decimal(ms / 1000)}));
}

function showTime(leftS, maxS) {
  const left = byId("time-left");
  const words = `${Math.ceil(leftS)} s`;
  if (left.textContent !== words) {
    left.textContent = words;
    if (words === "10 s" && desk.check?.isLive) say(t("10 seconds left. Choose Seen, Not seen or Unsure."));
  }
  left.classList.toggle("short", leftS <= 10);
  byId("time-bar").value = maxS > 0 ? leftS / maxS : 0;
  showCover();
}

function checkEnded(check, error) {
  if (desk.check !== check) return;
  desk.check = null;
  desk.isSending = false;
  byId("fingerprint").textContent = "";
  byId("view-signal").textContent = "";
  showForm(false);
  showAge(null);
  if (error) complain(error);
  // After a forged answer its warning stays; otherwise the home's word on the end replaces what is said here.
  if (check.id !== null && error?.code !== "answer-fingerprint") {
    desk.awaited = {gateway: check.home.gateway, check: check.id, sinceMs: nowMs()};
    if (!error) say(t("Ended. Waiting for the home to confirm that the camera is off…"));
  }
  showHome();
  byId("start").focus();
  if (desk.gateway) void fetchChallenge();
}

export async function giveVerdict(verdict) {
  const check = desk.check;
  if (!check?.isLive || desk.isSending) return;
  desk.isSending = true;
  showHome();
  try {
    await check.giveVerdict(verdict);
  } catch (error) {
    desk.isSending = false;
    if (desk.check === check) {
      complain(error);
      showHome();
    }
  }
}

/** The home's signed word on how a check ended, by way of the centre. */
export function showOutcome(closed) {
  const isRunning = desk.check !== null && desk.check.id === closed.check;
  const isAwaited = desk.awaited?.check === closed.check;
  if (!isRunning && !isAwaited) return;
  if (isRunning) desk.check.end(null);
  desk.awaited = null;
  const parked = closed.parked
    ? t("The camera is off and turned away.") : t("The camera did not confirm its resting place: report a fault.");
  const words = [`${ending(closed.why)}.`, t("Watched for {time}.", {time: duration(closed.watched_s)}), parked, nextStep(closed)];
  say(words.filter(Boolean).join(" "), closed.parked ? (closed.why === "seen" ? "good" : "plain") : "bad");
}

export function expectOutcome() {
  if (!desk.awaited) return;
  const waitedMs = nowMs() - desk.awaited.sinceMs;
  const known = desk.home?.last.find((one) => one.check === desk.awaited.check);
  if (known) {
    showOutcome(known);
  } else if (waitedMs > 25000) {
    desk.awaited = null;
    say(t("The home has not confirmed the end of the check. It closes by itself; if the home stays silent, follow your routine."), "bad");
  } else if (waitedMs > 3000) {
    void desk.refresh(); // the news may have been lost with a connection
  }
}
