// What the centre says has changed.

import {getHandovers, getHomes} from "./api.js";
import {byId, complain, desk, setText} from "./desk.js";
import {showLog, showOutcome} from "./home.js";
import {t} from "./say.js";
import {alarm} from "./words.js";

let refreshing = null;
let show = () => {};

/** Fetch the homes; calls while one is under way are served by one more. */
desk.refresh = () => {
  refreshing ??= (async () => {
    await new Promise((resolve) => { setTimeout(resolve, 100); });
    try {
      [desk.homes, desk.handovers] = await Promise.all([getHomes(), getHandovers()]);
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
  source.addEventListener("handover", () => { void desk.refresh(); });
  source.addEventListener("alarm", ({data}) => {
    byId("alarm").textContent = alarm(JSON.parse(data));
    byId("alarm").hidden = false;
  });
}
