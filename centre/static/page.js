// The console's page: which view is shown, keys, the shift's grant. What it shows comes from the centre; what it plays
// comes only from a home whose device key has signed for it (check.js).

import {getConfig, getGrant, getHandovers, getHomes, logOut} from "./api.js";
import {byId, complain, desk, nowMs, nowUnixS, openHome, say} from "./desk.js";
import {expectOutcome, fetchChallenge, giveVerdict, keepChallenge, showCover, showHome, showLog, start} from "./home.js";
import {forgetKey, operatorKey} from "./jws.js";
import {connected, listen} from "./news.js";
import {moveByKey, showQueue} from "./queue.js";
import {t} from "./say.js";
import {clockTime} from "./words.js";

const ASK_AGAIN_S = 15;

window.tillsyn = {firstFrameMs: null, frames: 0};

function show() {
  const isHome = openHome() !== undefined;
  byId("list-view").hidden = isHome;
  byId("home-view").hidden = !isHome;
  document.title = isHome ? `${desk.gateway} – ${t("Night checks")}` : t("Night checks");
  if (isHome) showHome();
  else showQueue();
}

function follow() {
  const gateway = decodeURIComponent(location.hash.slice(1));
  const home = desk.homes.find((one) => one.gateway === gateway);
  const next = home ? gateway : null;
  if (next !== desk.gateway) {
    desk.check?.close();
    Object.assign(desk, {gateway: next, challenge: null, challengeError: null, chosen: null, isStarting: false});
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
  desk.inputMs = nowMs();
  const isControl = event.target.closest?.("a, button, summary") !== null;
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

function tick() {
  if (nowUnixS() > desk.grantExpUnixS - 600 && !desk.check) void renewGrant();
  keepChallenge();
  expectOutcome();
  show();
}

let grantAskedMs = -Infinity;

async function renewGrant() {
  if (nowMs() - grantAskedMs < ASK_AGAIN_S * 1000) return;
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

async function begin() {
  desk.config = await getConfig();
  desk.clockOffsetS = desk.config.now_unix_s - Date.now() / 1000;
  desk.inputMs = nowMs();
  watermark();
  setInterval(watermark, 30000);
  [desk.homes, desk.handovers] = await Promise.all([getHomes(), getHandovers(), renewGrant()]);
  connected(true);
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", () => { desk.inputMs = nowMs(); });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      desk.visibleSinceMs = Infinity;
    } else {
      desk.visibleSinceMs = nowMs();
      desk.check?.renewLease();
      keepChallenge();
    }
    showCover();
  });
  window.addEventListener("pagehide", () => desk.check?.close());
  byId("start").addEventListener("click", () => { void start(); });
  byId("close").addEventListener("click", () => desk.check?.close());
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => { void giveVerdict(button.dataset.verdict); });
  }
  byId("due").addEventListener("change", (event) => {
    desk.chosen = event.target.value;
    showHome();
  });
  byId("video").addEventListener("contextmenu", (event) => event.preventDefault());
  byId("log-out").addEventListener("click", async () => {
    desk.check?.close();
    try {
      await forgetKey(desk.config.who);
      await logOut();
    } finally {
      location.replace("/");
    }
  });
  follow();
  listen(show);
  setInterval(tick, 1000);
}

begin().catch((error) => {
  complain(error);
  connected(false);
});
