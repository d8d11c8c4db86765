// What the centre says has changed.

import {getHandovers, getHome, getQueue} from "./api.js";
import {byId, complain, desk, may, nowUnixS, openHome, setText} from "./desk.js";
import {showLog, showOutcome} from "./home.js";
import {t} from "./say.js";
import {updatesChanged} from "./updates.js";
import {alarm} from "./words.js";

// Whoever reckons the queue for us keeps it for 0.4 s: asked later than that after the news, it has the news in it.
const AFTER_NEWS_MS = 450;
const SEES_HOMES = ["operator", "planner", "steward", "installer", "auditor"];

let refreshing = null;
let show = () => {};

/** Fetch the homes; calls while one is under way are served by one more. */
desk.refresh = () => {
  refreshing ??= (async () => {
    await new Promise((resolve) => { setTimeout(resolve, AFTER_NEWS_MS); });
    try {
      await load();
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
};

/** Fetch what the open view needs: an open home is that home, and the queue is reckoned when somebody looks at it. */
export async function load() {
  if (desk.gateway !== null) {
    const home = await getHome(desk.gateway);
    if (home.gateway === desk.gateway) desk.home = home;
    return;
  }
  const queue = may(...SEES_HOMES) ? await getQueue() : {items: [], counts: {}, handovers: await getHandovers()};
  desk.queue = queue;
  desk.handovers = queue.handovers;
}

export function connected(is) {
  const line = byId("connection");
  setText(line, is ? t("Connected to the centre") : t("No connection to the centre. Trying again…"));
  line.classList.toggle("bad", !is);
}

/** Follow the centre's events for good; `showAll` shows the page anew. */
export function listen(showAll) {
  show = showAll;
  const source = new EventSource("/api/v1/events");
  source.onopen = () => { void desk.refresh(); };
  source.onerror = () => {
    connected(false);
    // An answer that is no event stream ends it for good, as after the login has run out.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { void desk.refresh(); listen(showAll); }, 5000);
  };
  source.addEventListener("home", () => { void desk.refresh(); });
  source.addEventListener("closed", ({data}) => {
    showOutcome(JSON.parse(data));
    void desk.refresh();
  });
  for (const event of ["handover", "claim", "fault"]) source.addEventListener(event, () => { void desk.refresh(); });
  source.addEventListener("fleet", updatesChanged);
  source.addEventListener("signal", ({data}) => {
    const signal = JSON.parse(data);
    const home = openHome();
    if (home?.gateway !== signal.gateway) return;
    home.signal = {...signal, heard_unix_s: nowUnixS()};
    show();
  });
  source.addEventListener("alarm", ({data}) => {
    byId("alarm").textContent = alarm(JSON.parse(data));
    byId("alarm").hidden = false;
  });
}
