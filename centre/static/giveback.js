// A lent device goes back (docs/return.md): a steward ends its use; a second person, who has compared the six digits with
// those that the device shows to whoever holds it, has it erased. The device checks all of it again. One that does not come
// back is closed here alone.

import {closeReturn, command, getReturns} from "./api.js";
import {byId, complain, desk, may, openHome, say, setText} from "./desk.js";
import {newId} from "./jws.js";
import {t} from "./say.js";

// What the home's refusal means for a return, where it means something else than for a check.
const REFUSALS = {
  "wrong-role": t("Who ordered it back can't be the second person. Ask a colleague."),
  "not-agreed": t("Nobody has held the button at the device in the last fifteen minutes. Ask for it, then try again."),
  "nonce-unknown": t("The device shows other digits. Hold its button again, and compare once more."),
  "busy": t("The centre has not all of this home's log yet. Wait a minute, then try again."),
};

const WHYS = {lost: t("It is lost"), broken: t("It is broken"), destroyed: t("It was destroyed, with its card")};

const shown = {gateway: null, row: null, isSending: false};

/** Called whenever the open home is shown. */
export function showReturn() {
  const home = openHome();
  const box = byId("return-box");
  box.hidden = !home || !may("steward", "installer");
  if (shown.gateway !== desk.gateway) {
    Object.assign(shown, {gateway: desk.gateway, row: null});
    box.open = false;
    byId("return-sure").checked = false;
    byId("return-typed").value = "";
    byId("return-lost").open = false;
    byId("return-cared").checked = false;
    byId("return-why").value = "";
    setText(byId("return-state"), "");
  }
  const {row} = shown;
  const canSign = desk.operator && !shown.isSending && desk.check === null;
  byId("return-first").hidden = !may("steward") || Boolean(row?.statement);
  byId("return-order").disabled = !canSign || !byId("return-sure").checked;
  byId("return-second").hidden = !row?.code || Boolean(row.closed_unix_s);
  byId("return-lost").hidden = !may("steward") || Boolean(row?.statement) || Boolean(row?.closed_unix_s);
  byId("return-close").disabled = shown.isSending || !byId("return-cared").checked || !byId("return-why").value;
  byId("return-erase").disabled = !canSign;
  setText(byId("return-code"), row?.code ? `${row.code.slice(0, 3)} ${row.code.slice(3)}` : "");
  byId("return-paper").hidden = !row;
  if (row) byId("return-paper").href = `/api/v1/homes/${encodeURIComponent(row.gateway)}/return/protocol.pdf?install_epoch=${row.install_epoch}`;
  if (row?.closed_unix_s && !row.statement) setText(byId("return-state"), t("Closed without the device by {who}: {why}. The device has not confirmed it.", {who: row.closed_by, why: WHYS[row.closed_why] ?? row.closed_why}));
  if (row?.statement) setText(byId("return-state"), t("The device has said its last word and is erased. {who} confirmed it.", {who: row.second}));
}

async function look() {
  const home = openHome();
  if (!home) return;
  const rows = await getReturns();
  if (desk.gateway !== home.gateway) return;
  shown.row = rows.find((one) => one.gateway === home.gateway && one.install_epoch === home.install_epoch) ?? null;
  showReturn();
}

/** Send one command of a return; `words` stand there when the home has taken it. */
async function send(kind, values, answerKind, words) {
  const home = openHome();
  if (!home || shown.isSending) return;
  shown.isSending = true;
  showReturn();
  say("");
  setText(byId("return-state"), t("Asking the home…"));
  let said = "";
  try {
    await command(desk.operator, home, kind, values, answerKind);
    said = words;
    await look();
  } catch (error) {
    if (desk.gateway !== home.gateway) return;
    if (REFUSALS[error.code]) say(REFUSALS[error.code], "bad");
    else complain(error);
  } finally {
    shown.isSending = false;
    if (desk.gateway === home.gateway) setText(byId("return-state"), said);
    showReturn();
  }
}

function order() {
  const words = t("Nothing opens in this home any more. Bring the device back, and hold its button while power comes.");
  return send("device.return", {version: (shown.row?.version ?? 0) + 1, nonce: newId()}, "device.returning", words);
}

function erase() {
  const code = byId("return-typed").value.replaceAll(" ", "");
  if (code !== shown.row?.code) {
    say(t("These are not the digits that stand here. Ask again; if they stay different, it is another device."), "bad");
    return undefined;
  }
  const words = t("The device is erased as soon as the centre has its last word.");
  return send("device.erase", {version: shown.row.version, code}, "accepted", words);
}

async function close() {
  const home = openHome();
  if (!home || shown.isSending) return;
  shown.isSending = true;
  showReturn();
  say("");
  try {
    await closeReturn(home.gateway, byId("return-why").value);
    await look();
  } catch (error) {
    if (desk.gateway === home.gateway) complain(error);
  } finally {
    shown.isSending = false;
    showReturn();
  }
}

export function beginReturn() {
  byId("return-box").addEventListener("toggle", () => { if (byId("return-box").open) look().catch(complain); });
  byId("return-sure").addEventListener("change", showReturn);
  for (const id of ["return-cared", "return-why"]) byId(id).addEventListener("change", showReturn);
  byId("return-close").addEventListener("click", () => { void close(); });
  byId("return-order").addEventListener("click", () => { void order(); });
  byId("return-erase").addEventListener("click", () => { void erase(); });
}
