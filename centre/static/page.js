// The console's page: which view is shown, keys, the shift's grant. What it shows comes from the centre; what it plays
// comes only from a home whose device key has signed for it (check.js).

import {beginAccount, showAccount, showAudit} from "./account.js";
import {getConfig, getGrant, logOut, release} from "./api.js";
import {byId, complain, desk, may, nowMs, nowUnixS, openHome, say} from "./desk.js";
import {showHandovers} from "./handovers.js";
import {
  dropChallenge, expectOutcome, fetchChallenge, giveVerdict, keepChallenge, keepClaim, showCover, showHome, showLog, start,
} from "./home.js";
import {showHomes} from "./homes.js";
import {forgetKey, operatorKey} from "./jws.js";
import {connected, listen, load} from "./news.js";
import {beginReturn, showReturn} from "./giveback.js";
import {beginPlan, showPlan} from "./plan.js";
import {moveByKey, showQueue} from "./queue.js";
import {t} from "./say.js";
import {beginSetup, showSetup} from "./setup.js";
import {beginUpdates, showUpdates} from "./updates.js";
import {clockTime} from "./words.js";

const ASK_AGAIN_S = 15;
const LOOK_EVERY_S = 10;
const SIGNS = ["operator", "planner", "steward", "installer", "release"];
const VIEWS = {
  queue: {show: showQueue, roles: ["operator", "planner", "steward", "installer", "auditor"]},
  handovers: {show: showHandovers, roles: ["home-care", "operator"]},
  homes: {enter: showHomes, again: true, roles: ["operator", "planner", "steward", "installer", "auditor"]},
  plan: {enter: showPlan, again: true, roles: ["planner", "steward"]},
  updates: {enter: showUpdates, again: true, roles: ["steward", "release", "auditor"]},
  audit: {enter: showAudit, roles: ["auditor"]},
  account: {enter: showAccount, roles: null},
};

window.tillsyn = {firstFrameMs: null, frames: 0};

const mayView = (view) => VIEWS[view].roles === null || may(...VIEWS[view].roles);
const firstView = () => Object.keys(VIEWS).find(mayView);

function show() {
  const view = desk.gateway === null ? desk.view : "home";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `${view}-view`;
  // Hand-overs stand above the queue and are a page of their own for home care: one list, in two places.
  const place = byId(view === "handovers" ? "handovers-view" : "queue-view");
  if (byId("handovers-strip").parentElement !== place) place.prepend(byId("handovers-strip"));
  byId("no-handovers").hidden = view !== "handovers" || desk.handovers.length > 0;
  document.title = desk.gateway === null ? t("Night checks") : `${desk.gateway} – ${t("Night checks")}`;
  if (view === "home") {
    showHome();
    showSetup();
    showReturn();
  } else VIEWS[view].show?.();
}

async function follow() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const gateway = wanted.startsWith("gw-") ? wanted : null;
  const view = wanted in VIEWS && mayView(wanted) ? wanted : firstView();
  if (gateway !== desk.gateway || view !== desk.view) {
    desk.check?.close();
    dropChallenge();
    Object.assign(desk, {gateway, view, home: null, challengeError: null, chosen: null, isStarting: false, claimedBy: null});
    say("");
    byId("alarm").hidden = true;
    byId("log").replaceChildren();
    byId("fingerprint").textContent = "";
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash.slice(1) === (desk.view === firstView() && link.dataset.view === desk.view ? "" : desk.view) || link.dataset.view === desk.view) {
      link.setAttribute("aria-current", "page");
    } else link.removeAttribute("aria-current");
  }
  // Back at the queue it stands there at once, as it was; what has changed meanwhile comes with the answer. A home's page
  // stands there at once too, with its name and nothing else.
  if (gateway !== null) {
    byId("home-title").textContent = gateway;
    show();
    byId("home-title").focus();
  } else if (desk.queue.now_unix_s) show();
  try {
    await load();
  } catch (error) {
    complain(error);
    if (gateway !== null) { // no such home, or not ours
      location.hash = "";
      return;
    }
  }
  if (desk.gateway !== gateway) return; // somebody went on meanwhile
  show();
  if (gateway !== null) {
    void fetchChallenge();
    void showLog();
  } else {
    (document.querySelector(`#${view}-view .home`) ?? document.querySelector(`#${view}-view h2`)).focus();
    void VIEWS[view].enter?.();
  }
  void keepClaim();
}

function onKey(event) {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  desk.inputMs = nowMs();
  const isControl = event.target.closest?.("a, button, summary, select, input, textarea") !== null;
  if (desk.gateway === null) {
    if (moveByKey(event)) event.preventDefault();
    return;
  }
  const verdict = {s: "seen", n: "not_seen", u: "unsure"}[event.key.toLowerCase()];
  if (event.key === "Escape") {
    if (desk.check) desk.check.close();
    else location.hash = "";
    event.preventDefault();
  } else if (event.key === "Enter" && !isControl) {
    void start();
    event.preventDefault();
  } else if (verdict && desk.check) {
    void giveVerdict(verdict);
    event.preventDefault();
  }
}

let lookedMs = 0;

function tick() {
  if (may(...SIGNS) && nowUnixS() > desk.grantExpUnixS - 600 && !desk.check) void renewGrant();
  keepChallenge();
  void keepClaim();
  expectOutcome();
  // What time alone changes is reckoned at the centre, and news can be lost.
  if (nowMs() - lookedMs > LOOK_EVERY_S * 1000) {
    lookedMs = nowMs();
    void desk.refresh();
    if (desk.gateway === null && VIEWS[desk.view].again) void VIEWS[desk.view].enter();
  }
  show();
}

let grantAskedMs = -Infinity;

async function renewGrant() {
  if (!may(...SIGNS) || nowMs() - grantAskedMs < ASK_AGAIN_S * 1000) return;
  grantAskedMs = nowMs();
  const key = await operatorKey(desk.config.who);
  const {grant, exp_unix_s: expUnixS} = await getGrant(key.jwk);
  desk.operator = {key, grant};
  desk.grantExpUnixS = expUnixS;
}

function watermark() {
  const words = `${desk.config.who} · ${clockTime(nowUnixS())}`;
  byId("watermark").replaceChildren(...Array.from({length: 9}, () => {
    const span = document.createElement("span");
    span.textContent = words;
    return span;
  }));
}

/** What the operator sees leaves this page by no way that a page can close. */
function guardPicture() {
  for (const event of ["contextmenu", "dragstart", "copy", "enterpictureinpicture"]) {
    byId("screen").addEventListener(event, (heard) => {
      heard.preventDefault();
      if (event === "enterpictureinpicture") void document.exitPictureInPicture();
    });
  }
}

async function begin() {
  desk.config = await getConfig();
  desk.clockOffsetS = desk.config.now_unix_s - Date.now() / 1000;
  desk.inputMs = nowMs();
  for (const link of document.querySelectorAll("nav a")) link.hidden = !mayView(link.dataset.view);
  watermark();
  setInterval(watermark, 30000);
  await renewGrant();
  connected(true);
  window.addEventListener("hashchange", () => { void follow(); });
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", () => { desk.inputMs = nowMs(); });
  const look = () => {
    if (document.hidden) {
      desk.visibleSinceMs = Infinity;
    } else {
      desk.visibleSinceMs = nowMs();
      desk.check?.renewLease();
      keepChallenge();
    }
    if (openHome()) showCover();
  };
  document.addEventListener("visibilitychange", look);
  for (const event of ["blur", "focus"]) window.addEventListener(event, () => { if (openHome()) showCover(); });
  window.addEventListener("pagehide", () => {
    desk.check?.close();
    if (desk.claimed) release(desk.claimed.gateway, desk.claimed).catch(() => {});
  });
  byId("start").addEventListener("click", () => { void start(); });
  byId("close").addEventListener("click", () => desk.check?.close());
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => { void giveVerdict(button.dataset.verdict); });
  }
  byId("due").addEventListener("change", (event) => {
    desk.chosen = event.target.value;
    showHome();
    void keepClaim();
  });
  guardPicture();
  beginAccount();
  beginSetup();
  beginReturn();
  if (mayView("plan")) beginPlan();
  if (mayView("updates")) beginUpdates();
  byId("log-out").addEventListener("click", async () => {
    desk.check?.close();
    try {
      await forgetKey(desk.config.who);
      await logOut();
    } finally {
      location.replace("/");
    }
  });
  await follow();
  listen(show);
  setInterval(tick, 1000);
}

begin().catch((error) => {
  complain(error);
  connected(false);
});
