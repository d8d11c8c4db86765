// Set-up entered once more: a steward consents with the steward's own key in this browser (docs/installer.md, "Later").
//
// Where the home has a line the consent goes there at once. Where it has none the same consent stands on the page, for
// the installer's phone. It does nothing without the button at the device, and nothing twice.

import {sendSigned, signCommand} from "./api.js";
import {byId, complain, desk, may, nowUnixS, openHome, say, setText} from "./desk.js";
import {t} from "./say.js";
import {clockTime} from "./words.js";

// Source: gateway/decision/gate.py, SETUP_CONSENT_S.
const CONSENT_S = 12 * 3600;
const NO_LINE = new Set(["no-answer", "broker-down", "centre-unreachable"]);
// What the home's refusal means for a consent, where it means something else than for a check.
const REFUSALS = {
  "stale-version": t("The home has a newer consent already."),
  "outside-window": t("The home's clock and the centre's do not agree. Try again in a minute; if it repeats, report a fault."),
};

const shown = {gateway: null, isSending: false};

/** Called whenever the open home is shown. */
export function showSetup() {
  const home = openHome();
  byId("setup-again").hidden = !home || !may("steward");
  if (shown.gateway !== desk.gateway) {
    shown.gateway = desk.gateway;
    byId("setup-again").open = false;
    byId("setup-carried").hidden = true;
    byId("setup-consent").value = "";
    setText(byId("setup-state"), "");
  }
  byId("setup-allow").disabled = !desk.operator || shown.isSending || desk.check !== null;
}

async function allow() {
  const home = openHome();
  if (!home || shown.isSending) return;
  shown.isSending = true;
  showSetup();
  say("");
  setText(byId("setup-state"), t("Asking the home…"));
  const at = nowUnixS();
  let words = "";
  try {
    const signed = await signCommand(desk.operator, home, "setup.enter", {at});
    try {
      await sendSigned(home, signed, "accepted");
      words = t("The home has the consent. It waits for the button at the device, until {time}.", {time: clockTime(at + CONSENT_S)});
      if (desk.gateway === home.gateway) byId("setup-carried").hidden = true;
    } catch (error) {
      if (!NO_LINE.has(error.code)) throw error;
      words = t("The home does not answer. Send the text below to the installer's phone; it is good until {time}.", {time: clockTime(at + CONSENT_S)});
      if (desk.gateway === home.gateway) {
        byId("setup-consent").value = signed.envelope;
        byId("setup-carried").hidden = false;
      }
    }
  } catch (error) {
    if (desk.gateway === home.gateway) {
      if (REFUSALS[error.code]) say(REFUSALS[error.code], "bad");
      else complain(error);
    }
  } finally {
    shown.isSending = false;
    if (desk.gateway === home.gateway) setText(byId("setup-state"), words);
    showSetup();
  }
}

async function copy() {
  byId("setup-consent").select();
  try {
    await navigator.clipboard.writeText(byId("setup-consent").value);
    setText(byId("setup-state"), t("Copied."));
  } catch {
    setText(byId("setup-state"), t("Selected: copy it with the keyboard."));
  }
}

export function beginSetup() {
  byId("setup-allow").addEventListener("click", () => { void allow(); });
  byId("setup-copy").addEventListener("click", () => { void copy(); });
}
