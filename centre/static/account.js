// One's own account: passkeys. And the audit log, for whoever may read it.

import {beginPasskey, finishPasskey, getAudit, getPasskeys, removePasskey} from "./api.js";
import {byId, complain, desk, fromTemplate, say, showRows} from "./desk.js";
import {newPasskey} from "./passkey.js";
import {t} from "./say.js";
import {clockTime} from "./words.js";

export async function showAccount() {
  byId("account-who").textContent = `${desk.config.who} · ${desk.config.roles.join(", ")}`;
  let keys;
  try {
    keys = await getPasskeys();
  } catch (error) {
    complain(error);
    return;
  }
  showRows(byId("passkeys"), keys, (key) => key.credential_id, ({credential_id: id}) => {
    const row = fromTemplate("passkey-row");
    row.querySelector("button").addEventListener("click", async () => {
      await removePasskey(id).catch(complain);
      await showAccount();
    });
    return row;
  }, (row, key) => {
    row.querySelector("span").textContent = t("Made {time}, last used {used}", {
      time: clockTime(key.created_unix_s), used: key.used_unix_s === null ? "–" : clockTime(key.used_unix_s),
    });
  });
}

export function beginAccount() {
  byId("passkey-new").addEventListener("click", async () => {
    try {
      const {login, options} = await beginPasskey();
      await finishPasskey(login, await newPasskey(options));
      say(t("The passkey is registered. Next time, log in with it."), "good");
    } catch (error) {
      if (error.name === "NotAllowedError") say(t("No passkey was made."), "bad");
      else complain(error);
    }
    await showAccount();
  });
}

export async function showAudit() {
  const rows = [];
  try {
    for (let after = 0, page; ; after = page.at(-1).number) {
      page = await getAudit(after);
      rows.push(...page);
      if (page.length < 500 || rows.length > 5000) break;
    }
  } catch (error) {
    complain(error);
    return;
  }
  rows.reverse();
  byId("audit").replaceChildren(...rows.slice(0, 500).map((row) => {
    const line = fromTemplate("audit-row");
    const texts = [clockTime(row.at_unix_s), row.who, row.what, row.gateway ?? "–", row.code ?? (row.status === 200 ? t("done") : String(row.status))];
    texts.forEach((text, place) => { line.children[place].textContent = text; });
    return line;
  }));
}
