// What the console says: every code and state in plain words, with what to do.

import {language, t} from "./say.js";

const routine = t("follow your routine for a check that could not be made");

// Closed list; source: gateway/core/refusal.py. Below it the centre's own codes and the page's.
const REFUSALS = {
  "malformed": t("The home could not read the request. Reload this page and try again; if it repeats, report a fault."),
  "bad-signature": t("The home did not accept your signature. Reload this page; if it repeats, log out and in again."),
  "unknown-key": t("The home does not know your key, or your shift's grant has ended. Reload this page to get a new grant."),
  "wrong-role": t("Your account may not do this at this home. Ask a colleague who may, and tell your unit manager."),
  "wrong-device": t("The home has been installed anew since the centre registered it. Report it; do the check as a visit."),
  "not-agreed": t("This check is not in the resident's agreement. Go back to the list; do not try again."),
  "outside-window": t("It is not the agreed time: the camera can only open inside the agreed window."),
  "budget-spent": t("The agreed number of looks for this occasion is used up. Hand over to home care if the resident was not seen."),
  "paused": t("Checks are paused by the resident or by home care. Nothing to do until the pause ends."),
  "withdrawn": t("The resident has withdrawn consent. No check is possible. Tell home care today."),
  "no-consent": t("Consent is missing from the agreement. No check is possible. Tell home care today."),
  "stale-version": t("The agreement has just changed. Open the home again and look at the new times."),
  "nonce-unknown": t("The home has restarted since you opened it. Press Start again."),
  "nonce-used": t("This start was used already. Press Start again."),
  "nonce-expired": t("You waited longer than 30 seconds. Press Start again."),
  "clock-untrusted": t("The home is not sure what time it is, so it does not open. Try again in a minute; if it repeats, {routine}.", {routine}),
  "busy": t("Another check is running in this home just now. Wait until it has ended."),
  "not-parked": t("The camera could not be turned to its resting place, so it does not open. Report a fault, and {routine}.", {routine}),
  "camera-fault": t("The camera does not work. Report a fault, and {routine}.", {routine}),
  "mount-fault": t("The camera can't be turned. Report a fault, and {routine}.", {routine}),
  "ledger-unwritable": t("The home can't write its log, so it does not open. Report a fault, and {routine}.", {routine}),
  "integrity-alarm": t("The home's log does not fit what was logged before; its camera is disabled. Report it now, and {routine}.", {routine}),
  "low-power": t("The home runs on weak power. Try again in a few minutes; if it repeats, {routine}.", {routine}),
  "updating": t("The home is installing an update. Try again in ten minutes."),
  "returned": t("This device has been returned. No check is possible. Remove the home from your list."),
  "rate-limited": t("Too many requests in a short time. Wait ten seconds, then try again."),

  "no-answer": t("The home did not answer within 12 seconds. Try once more; if it stays silent, {routine}.", {routine}),
  "broker-down": t("The centre has no connection to the homes just now. It keeps trying; try again in a minute."),
  "unknown-home": t("The centre knows no such home. Go back to the list."),
  "home-disabled": t("This home's log does not fit what the centre has witnessed; its camera stays off. Report it now, and make the check as a visit."),
  "claimed": t("A colleague is about to make this check. Take another one."),
  "not-an-agreement": t("This is no agreement. Look at what is marked, then try again."),
  "already-arrived": t("A colleague is there already."),
  "no-fault": t("This fault is over."),
  "passkey-refused": t("The passkey did not fit. Try again."),
  "already-acknowledged": t("A colleague has taken this hand-over on already."),
  "not-acknowledged": t("Acknowledge this hand-over first."),
  "already-done": t("This hand-over is done already."),
  "unknown-handover": t("There is no such hand-over any more. Reload this page."),
  "not-an-offer": t("This is no update offer. Paste the file that the release role signed."),
  "plan-changed": t("The homes have changed since the plan was shown. Look at it again."),
  "nobody-to-update": t("No home needs this version."),
  "rollout-running": t("Another rollout for these boards has not ended. End it first."),
  "not-now": t("The rollout is not in a state for that any more."),
  "unknown-rollout": t("There is no such rollout any more. Reload this page."),
  "not-logged-in": t("Your login has ended. Open your login link again."),
  "other-account": t("This browser holds another account's grant. Reload this page."),
  "grant-expired": t("Your shift's grant has ended. Reload this page to get a new one."),

  "centre-unreachable": t("The centre does not answer. Check this computer's network, then reload this page."),
  "forged-reply": t("The answer did not come from this home's own device. Nothing was shown. Report this as a security incident."),
  "offer-fingerprint": t("This browser made an offer that can't be sealed to it. Reload this page; if it repeats, use another browser."),
  "answer-fingerprint": t("The home's answer is not sealed to one device. Nothing was shown. Report this as a security incident."),
  "seal-broken": t("What came is not sealed to this home's device: somebody on the way changed it. Nothing more is shown. Report this as a security incident."),
  "no-h264": t("This browser can't show H.264 video. Use Chrome, Chromium or Edge."),
  "no-relay": t("The picture's relay server does not answer. Try again; if it repeats, report a fault."),
  "picture-lost": t("The connection to the picture was lost. The camera closes by itself within 10 seconds."),
};

/** An error of the API or the page in words. */
export function refusal(error) {
  return REFUSALS[error.code] ?? error.message ?? t("Something went wrong. Reload this page.");
}

// Closed list; source: gateway/check/machine.py, `Why`.
const ENDINGS = {
  "seen": t("Seen"),
  "not-seen": t("Not seen"),
  "unsure": t("Unsure"),
  "operator-closed": t("Closed without a verdict"),
  "time-up": t("The agreed time was up"),
  "lease-lapsed": t("The console stopped looking"),
  "no-picture": t("No picture came"),
  "seal-broken": t("The picture's seal was broken on the way"),
  "resident-stopped": t("Stopped by the resident"),
  "returned": t("The device goes back"),
  "camera-fault": t("Camera fault"),
  "mount-fault": t("The camera could not turn"),
  "low-power": t("The device had too little power"),
  "eye-lost": t("The camera stopped"),
  "link-lost": t("Connection lost in the home"),
  "broker-lost": t("Connection to the centre lost"),
  "ledger-unwritable": t("The home could not write its log"),
  "service-stopped": t("The device stopped"),
  "recovered": t("Power or device went away during the check"),
};

/** How a check ended, from `why`. */
export const ending = (why) => ENDINGS[why] ?? ENDINGS[String(why).replaceAll("_", "-")] ?? why ?? "–";

/** What the resident's agreement says comes next, as a sentence, or "". */
export function nextStep(closed) {
  const time = closed.next_unix_s ? clockTime(closed.next_unix_s) : null;
  switch (closed.next) {
    case "none": case undefined: return "";
    case "recheck": return time ? t("Look again at {time}.", {time}) : t("Look again.");
    case "handover": return time ? t("Hand over to home care now, at the latest at {time}.", {time}) : t("Hand over to home care now.");
    default: return t("Next: {what}.", {what: closed.next.replaceAll("-", " ")});
  }
}

const KINDS = {
  "refused": t("Refused"),
  "missed-check": t("Check missed"),
  "handover": t("Handed over to home care"),
  "paused": t("Paused"),
  "withdrawn": t("Consent withdrawn"),
  "tamper": t("Device moved or opened"),
  "power": t("Power"),
  "integrity-alarm": t("Log alarm"),
};
// Of set-up what opens and ends it. Source: gateway/services/guard_setup.py, `Door`.
const SET_UP = {
  "begun": t("Set-up begun"),
  "allowed": t("Set-up again: a steward consents"),
  "entered": t("Set-up again: begun at the device"),
  "done": t("Set-up done"),
};
/** Whether a ledger record stands in the log. */
export const isLogged = ({kind, why}) => kind === "closed" || kind in KINDS || (kind === "setup" && why in SET_UP);

/** One ledger record's outcome. */
export function logged(row) {
  if (row.kind === "closed") return ending(row.why);
  if (row.kind === "setup") return SET_UP[row.why];
  if (row.kind === "handover" && row.why === "test-alarm") return t("Test alarm");
  const why = row.why ? ` (${row.why.replaceAll("-", " ")})` : "";
  return `${KINDS[row.kind] ?? row.kind}${why}`;
}

// Why a check became a hand-over; source: centre/missed.py. A refusal's code stands in REFUSALS.
const REASONS = {
  "missed-check": t("The agreed check was not made"),
  "not-seen": t("The resident was not seen"),
  "recheck-missed": t("Not seen, and nobody looked again"),
  "check-broken": t("The check broke off, and nobody saw the resident"),
  "unclosed": t("The check began, and the home has not said how it ended"),
  "home-disabled": t("The home is disabled because of its log"),
  "outside-window": t("Refused: it was not the agreed time"),
  "clock-untrusted": t("Refused: the home did not know the time"),
  "camera-fault": t("The camera does not work"),
  "mount-fault": t("The camera can't be turned"),
  "integrity-alarm": t("The home's log does not fit"),
  "home-silent": t("The home is silent"),
  "not-parked": t("The camera is not turned away"),
  "ledger-unwritable": t("The home can't write its log"),
  "low-power": t("The home runs on weak power"),
};
export const reason = (word) => REASONS[word] ?? t("The check was refused ({why})", {why: String(word).replaceAll("-", " ")});

const STEPS = {
  "call-resident": t("call the resident"), "visit": t("visit"), "call-contact": t("call the contact person"),
};
/** "call the resident within 5 min, then visit (hv-centrum) within 45 min". */
export const steps = (list) => list.map((step) => {
  const what = STEPS[step.do] ?? step.do.replaceAll("-", " ");
  const who = step.unit ? ` (${step.unit})` : "";
  return t("{what}{who} within {n} min", {what, who, n: step.within_min});
}).join(t(", then "));

/** What may have come of a hand-over: [word for the record, words for the person]. */
export const OUTCOMES = [
  ["visited", t("Visited, resident well")],
  ["reached", t("Reached by telephone, well")],
  ["help-given", t("Visited, help was needed")],
  ["not-at-home", t("Not at home")],
  ["checked-later", t("Seen in a later check")],
  ["other", t("Other, written in the care record")],
];

const SINCE = {
  seen: t("The home has since reported: seen."), not_seen: t("The home has since reported a check: not seen."),
  unsure: t("The home has since reported a check: unsure."), broken: t("The home has since reported a check that broke off."),
};
/** What a home reported after its check was handed over, or "". */
export const since = (word) => SINCE[word] ?? "";

// Alarms of the jobs and the witness; source: centre/witness.py. Any other code is a message that was dropped.
const ALARMS = {
  "log-forked": t("has a log that contradicts what was witnessed before. It is disabled until it has been installed anew. Report it now."),
  "log-shorter": t("has a log shorter than what was witnessed. It is disabled until it has been installed anew. Report it now."),
  "lines-false": t("sent log lines that its own signature does not cover. Report it."),
  "gap": t("signed its log, but some of its lines have not arrived. Report it if it repeats."),
  "bad-proof": t("sent a proof that does not verify. Report it."),
  "seal-broken": t("ended a check because the picture's seal was broken on the way. Report it now as a security incident."),
  "ledger-gap": t("has log lines that have not arrived. Report it."),
  "checkpoint-stale": t("has not signed its log for more than a day. Report it."),
  "delivery-failed": t("has a hand-over that home care could not be told of by e-mail or by their own system. Call them now."),
  "home-silent": t("has been silent for more than an hour. Follow your routine for a home that can't be reached."),
};
/** An alarm as a sentence. */
export function alarm({gateway, code, count}) {
  const who = gateway === "unknown" ? t("an unknown sender") : gateway;
  if (ALARMS[code]) return t("Alarm: {who} {what}", {who, what: ALARMS[code]});
  return t("Security alarm: {who} sent something that was not in order ({code}, {n} this hour). It was dropped. Report it.", {who, code, n: count});
}

const DISABLED = {"log-forked": t("its log contradicts itself"), "log-shorter": t("its log has become shorter")};
/** Why a home is disabled, in words, or "". */
export const disabled = (why) => (why ? t("Disabled: {why}", {why: DISABLED[why.why] ?? why.why}) : "");

const STATUSES = {
  recheck: t("Look again"), due: t("Due now"), late: t("Time is over"), missed: t("Missed"), soon: t("Soon"), paused: t("Paused"), done: t("Done"),
  running: t("In progress"), overdue: t("Time is over"),
};
export const status = (word) => STATUSES[word] ?? word;

// Closed list; source: gateway/protocol/picture.py, `View`. They are about the picture: who is in it, the operator says.
const VIEWS = {
  "dark": t("The picture is dark: the camera's infrared light may be out. If you can't see, choose Unsure and report a fault."),
  "covered": t("Something covers the camera, or it points at a bare surface. If you can't see, choose Unsure and follow your routine."),
  "blurred": t("The picture is blurred: the lens may be dirty or misted. If you can't see enough, choose Unsure and report it."),
  "frozen": t("The picture stands still and may be old. Do not judge by it: choose Unsure, or close and start again."),
  "misaimed": t("The picture is not the one of the installation: the camera may point elsewhere. If the bed is not in it, choose Unsure and report it."),
};
/** What the home says of its own picture, with what to do, or "" when it is clear. */
export const view = (word) => VIEWS[word] ?? "";

/** The same of the newest picture that the centre has heard of, `signal` being {heard_unix_s, view}. */
export function lastView(signal) {
  const words = view(signal?.view?.view);
  return words && t("Last picture, {time}. {words}", {time: clockTime(signal.heard_unix_s), words});
}

const CLOCKS = {
  "floor": t("The home is not sure what time it is. It asks the centre by itself; wait a minute."),
  "contradicted": t("The home's clocks contradict one another. Report a fault."),
};
// What is not in order at a home, and what to do; source: centre/fault.py.
const FAULTS = {
  "home-silent": [t("The home is silent"), t("Ask home care whether the power is on and the router's lamps are lit. While it is silent its checks become visits.")],
  "home-disabled": [t("The home is disabled because of its log"), t("Report it now. Its checks are visits until it has been installed anew.")],
  "camera-fault": [t("The camera does not work"), t("Its checks become visits. Book a technician by day.")],
  "mount-fault": [t("The camera can't be turned"), t("Its checks become visits. Book a technician by day.")],
  "not-parked": [t("The camera is not turned away"), t("It stays closed. Ask home care to look at it at the next visit; book a technician by day.")],
  "ledger-unwritable": [t("The home can't write its log"), t("It stays closed. Its checks become visits. Book a technician by day.")],
  "integrity-alarm": [t("The home's log does not fit"), t("Report it now. Its checks are visits until it has been looked into.")],
  "low-power": [t("The home runs on weak power"), t("Ask home care to look at the plug and the power adapter.")],
  "clock-untrusted": [t("The home is not sure what time it is"), t("It asks the centre by itself. If this lasts for ten minutes, restart it by its plug.")],
  "no-agreement": [t("No agreement is in force."), t("A planner writes one under Agreements.")],
  "consent-ends": [t("Consent or agreement ends within a month"), t("A planner asks the resident again, by day, and writes the new date under Agreements.")],
  "delivery-failed": [t("Home care could not be told of a hand-over"), t("Call them now. Sending is tried again by itself.")],
  "return-unconfirmed": [t("A device was closed without its own word that it was erased"), t("Find it, or make sure that its card is destroyed. Its protocol is under Returns in the API.")],
  "never-heard": [t("The home has never reported"), t("It is registered and not installed yet; or its certificate is another's.")],
};
export const fault = (code) => FAULTS[code]?.[0] ?? code;
export const advice = (code) => FAULTS[code]?.[1] ?? t("Report it.");

const CHANNELS = {email: t("e-mail"), webhook: t("their own system"), page: t("this page only")};
export const channel = (word) => CHANNELS[word] ?? word;

/** Why the home's clock keeps it from opening, or "". */
export const clockObstacle = (clock) => (clock ? CLOCKS[clock.state] ?? "" : "");

const LOCALE = language === "sv" ? "sv-SE" : "en-GB";

/** "03:05", with the day in front when it is another one. */
export function clockTime(unixS) {
  const date = new Date(unixS * 1000);
  const time = date.toLocaleTimeString(LOCALE, {hour: "2-digit", minute: "2-digit"});
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString(LOCALE, {weekday: "short", day: "numeric", month: "short"})} ${time}`;
}

/** "0.4", in Swedish "0,4". */
export const decimal = (number) => number.toLocaleString(LOCALE, {minimumFractionDigits: 1, maximumFractionDigits: 1});

/** "45 s", "3 min", "2 h 10 min", "4 d". */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  const min = Math.round(s / 60);
  if (min < 90) return `${min} min`;
  const h = Math.floor(min / 60);
  return h < 48 ? `${h} h ${min % 60} min` : `${Math.round(h / 24)} d`;
}
