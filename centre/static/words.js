// What the console says: every code and state in plain words, with what to do.

const ROUTINE = "follow your routine for a check that could not be made";

// Closed list; source: gateway/core/refusal.py. Below it the centre's own codes and the page's.
const REFUSALS = {
  "malformed": "The home could not read the request. Reload this page and try again; if it repeats, report a fault.",
  "bad-signature": "The home did not accept your signature. Reload this page; if it repeats, log out and in again.",
  "unknown-key": "The home does not know your key, or your shift's grant has ended. Reload this page to get a new grant.",
  "wrong-role": "Your account may not do this at this home. Ask a colleague who may, and tell your unit manager.",
  "wrong-device": "The home has been installed anew since the centre registered it. Report it; do the check as a visit.",
  "not-agreed": "This check is not in the resident's agreement. Go back to the list; do not try again.",
  "outside-window": "It is not the agreed time: the camera can only open inside the agreed window.",
  "budget-spent": "The agreed number of looks for this occasion is used up. Hand over to home care if the resident was not seen.",
  "paused": "Checks are paused by the resident or by home care. Nothing to do until the pause ends.",
  "withdrawn": "The resident has withdrawn consent. No check is possible. Tell home care today.",
  "no-consent": "Consent is missing from the agreement. No check is possible. Tell home care today.",
  "stale-version": "The agreement has just changed. Open the home again and look at the new times.",
  "nonce-unknown": "The home has restarted since you opened it. Press Start again.",
  "nonce-used": "This start was used already. Press Start again.",
  "nonce-expired": "You waited longer than 30 seconds. Press Start again.",
  "clock-untrusted": `The home is not sure what time it is, so it does not open. Try again in a minute; if it repeats, ${ROUTINE}.`,
  "busy": "Another check is running in this home just now. Wait until it has ended.",
  "not-parked": `The camera could not be turned to its resting place, so it does not open. Report a fault, and ${ROUTINE}.`,
  "camera-fault": `The camera does not work. Report a fault, and ${ROUTINE}.`,
  "mount-fault": `The camera can't be turned. Report a fault, and ${ROUTINE}.`,
  "ledger-unwritable": `The home can't write its log, so it does not open. Report a fault, and ${ROUTINE}.`,
  "integrity-alarm": `The home's log does not fit what was logged before; its camera is disabled. Report it now, and ${ROUTINE}.`,
  "low-power": `The home runs on weak power. Try again in a few minutes; if it repeats, ${ROUTINE}.`,
  "updating": "The home is installing an update. Try again in ten minutes.",
  "returned": "This device has been returned. No check is possible. Remove the home from your list.",
  "rate-limited": "Too many requests in a short time. Wait ten seconds, then try again.",

  "no-answer": `The home did not answer within 12 seconds. Try once more; if it stays silent, ${ROUTINE}.`,
  "broker-down": "The centre has no connection to the homes just now. It keeps trying; try again in a minute.",
  "unknown-home": "The centre knows no such home. Go back to the list.",
  "home-disabled": "This home's log does not fit what the centre has witnessed; its camera stays off. Report it now, and make the check as a visit.",
  "already-acknowledged": "A colleague has taken this hand-over on already.",
  "not-acknowledged": "Acknowledge this hand-over first.",
  "already-done": "This hand-over is done already.",
  "unknown-handover": "There is no such hand-over any more. Reload this page.",
  "not-logged-in": "Your login has ended. Open your login link again.",
  "other-account": "This browser holds another account's grant. Reload this page.",
  "grant-expired": "Your shift's grant has ended. Reload this page to get a new one.",

  "centre-unreachable": "The centre does not answer. Check this computer's network, then reload this page.",
  "forged-reply": "The answer did not come from this home's own device. Nothing was shown. Report this as a security incident.",
  "offer-fingerprint": "This browser made an offer that can't be sealed to it. Reload this page; if it repeats, use another browser.",
  "answer-fingerprint": "The home's answer is not sealed to one device. Nothing was shown. Report this as a security incident.",
  "no-h264": "This browser can't show H.264 video. Use Chrome, Chromium or Edge.",
  "no-relay": "The picture's relay server does not answer. Try again; if it repeats, report a fault.",
  "picture-lost": "The connection to the picture was lost. The camera closes by itself within 10 seconds.",
};

/** An error of the API or the page in words. */
export function refusal(error) {
  return REFUSALS[error.code] ?? error.message ?? "Something went wrong. Reload this page.";
}

// Closed list; source: gateway/check/machine.py, `Why`.
const ENDINGS = {
  "seen": "Seen",
  "not-seen": "Not seen",
  "unsure": "Unsure",
  "operator-closed": "Closed without a verdict",
  "time-up": "The agreed time was up",
  "lease-lapsed": "The console stopped looking",
  "no-picture": "No picture came",
  "resident-stopped": "Stopped by the resident",
  "camera-fault": "Camera fault",
  "mount-fault": "The camera could not turn",
  "eye-lost": "The camera stopped",
  "link-lost": "Connection lost in the home",
  "broker-lost": "Connection to the centre lost",
  "ledger-unwritable": "The home could not write its log",
  "service-stopped": "The device stopped",
  "recovered": "Power or device went away during the check",
};

/** How a check ended, from `why`. */
export const ending = (why) => ENDINGS[why] ?? ENDINGS[String(why).replaceAll("_", "-")] ?? why ?? "–";

/** What the resident's agreement says comes next, as a sentence, or "". */
export function nextStep(closed) {
  const at = closed.next_unix_s ? ` at ${clockTime(closed.next_unix_s)}` : "";
  switch (closed.next) {
    case "none": case undefined: return "";
    case "recheck": return `Look again${at}.`;
    case "handover": case "hand-over": return `Hand over to home care now${at ? `, at the latest${at}` : ""}.`;
    default: return `Next: ${closed.next.replaceAll("-", " ")}${at}.`;
  }
}

const KINDS = {
  "refused": "Refused",
  "missed-check": "Check missed",
  "handover": "Handed over to home care",
  "paused": "Paused",
  "withdrawn": "Consent withdrawn",
  "tamper": "Device moved or opened",
  "power": "Power",
  "integrity-alarm": "Log alarm",
};
/** Kinds of ledger records that stand in the log besides closed checks. */
export const LOGGED_KINDS = new Set(Object.keys(KINDS));

/** One ledger record's outcome. */
export function logged(row) {
  if (row.kind === "closed") return ending(row.why);
  const why = row.why ? ` (${row.why.replaceAll("-", " ")})` : "";
  return `${KINDS[row.kind] ?? row.kind}${why}`;
}

// Why a check became a hand-over; source: centre/missed.py. A refusal's code stands in REFUSALS.
const REASONS = {
  "missed-check": "The agreed check was not made",
  "not-seen": "The resident was not seen",
  "recheck-missed": "Not seen, and nobody looked again",
  "check-broken": "The check broke off, and nobody saw the resident",
  "unclosed": "The check began, and the home has not said how it ended",
  "home-disabled": "The home is disabled because of its log",
  "outside-window": "Refused: it was not the agreed time",
  "clock-untrusted": "Refused: the home did not know the time",
  "camera-fault": "The camera does not work",
  "mount-fault": "The camera can't be turned",
  "integrity-alarm": "The home's log does not fit",
};
export const reason = (word) => REASONS[word] ?? `The check was refused (${String(word).replaceAll("-", " ")})`;

const STEPS = {
  "call-resident": "call the resident", "visit": "visit", "call-contact": "call the contact person",
};
/** "call the resident within 5 min, then visit (hv-centrum) within 45 min". */
export const steps = (list) => list.map((step) => {
  const what = STEPS[step.do] ?? step.do.replaceAll("-", " ");
  return `${what}${step.unit ? ` (${step.unit})` : ""} within ${step.within_min} min`;
}).join(", then ");

/** What may have come of a hand-over: [word for the record, words for the person]. */
export const OUTCOMES = [
  ["visited", "Visited, resident well"],
  ["reached", "Reached by telephone, well"],
  ["help-given", "Visited, help was needed"],
  ["not-at-home", "Not at home"],
  ["checked-later", "Seen in a later check"],
  ["other", "Other, written in the care record"],
];

const SINCE = {
  seen: "The home has since reported: seen.", not_seen: "The home has since reported a check: not seen.",
  unsure: "The home has since reported a check: unsure.", broken: "The home has since reported a check that broke off.",
};
/** What a home reported after its check was handed over, or "". */
export const since = (word) => SINCE[word] ?? "";

// Alarms of the jobs and the witness; source: centre/witness.py. Any other code is a message that was dropped.
const ALARMS = {
  "log-forked": "has a log that contradicts what was witnessed before. It is disabled until it has been installed anew. Report it now.",
  "log-shorter": "has a log shorter than what was witnessed. It is disabled until it has been installed anew. Report it now.",
  "lines-false": "sent log lines that its own signature does not cover. Report it.",
  "gap": "signed its log, but some of its lines have not arrived. Report it if it repeats.",
  "bad-proof": "sent a proof that does not verify. Report it.",
  "ledger-gap": "has log lines that have not arrived. Report it.",
  "checkpoint-stale": "has not signed its log for more than a day. Report it.",
  "home-silent": "has been silent for more than an hour. Follow your routine for a home that can't be reached.",
};
/** An alarm as a sentence. */
export function alarm({gateway, code, count}) {
  const who = gateway === "unknown" ? "an unknown sender" : gateway;
  if (ALARMS[code]) return `Alarm: ${who} ${ALARMS[code]}`;
  return `Security alarm: ${who} sent something that was not in order (${code}, ${count} this hour). It was dropped. Report it.`;
}

const DISABLED = {"log-forked": "its log contradicts itself", "log-shorter": "its log has become shorter"};
/** Why a home is disabled, in words, or "". */
export const disabled = (why) => (why ? `Disabled: ${DISABLED[why.why] ?? why.why}` : "");

const STATUSES = {
  recheck: "Look again", due: "Due now", late: "Time is over", missed: "Missed", soon: "Soon", paused: "Paused", done: "Done",
  running: "In progress",
};
export const status = (word) => STATUSES[word] ?? word;

const VIEWS = {
  dark: "The picture is dark.", covered: "Something covers the camera.", blurred: "The picture is blurred.",
  frozen: "The picture stands still.", misaimed: "The camera does not point where it should.",
};
/** What the device says of its own picture, or "" when it is clear. */
export const view = (word) => VIEWS[word] ?? "";

const CLOCKS = {
  "floor": "The home is not sure what time it is. It asks the centre by itself; wait a minute.",
  "contradicted": "The home's clocks contradict one another. Report a fault.",
};
/** Why the home's clock keeps it from opening, or "". */
export const clockObstacle = (clock) => (clock ? CLOCKS[clock.state] ?? "" : "");

/** "03:05", with the day in front when it is another one. */
export function clockTime(unixS) {
  const date = new Date(unixS * 1000);
  const time = date.toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit"});
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", {weekday: "short", day: "numeric", month: "short"})} ${time}`;
}

/** "45 s", "3 min", "2 h 10 min", "4 d". */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  const min = Math.round(s / 60);
  if (min < 90) return `${min} min`;
  const h = Math.floor(min / 60);
  return h < 48 ? `${h} h ${min % 60} min` : `${Math.round(h / 24)} d`;
}
