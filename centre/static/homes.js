// The homes: pseudonyms only, each with its health and, where something is not in order, what to do.

import {getFaults, getHomes} from "./api.js";
import {byId, complain, fromTemplate, nowUnixS, showRows} from "./desk.js";
import {noteText} from "./due.js";
import {fillDevice} from "./operation.js";
import {t} from "./say.js";
import {advice, clockObstacle, clockTime, duration, ending, fault} from "./words.js";

const newRow = ({gateway}) => {
  const row = fromTemplate("fleet-row");
  row.querySelector("a").href = `#${gateway}`;
  row.querySelector("a").textContent = gateway;
  fillDevice(row.querySelector("details"), gateway);
  return row;
};

function fillRow(row, {home, faults}) {
  const cell = (name) => row.querySelector(`.fleet-${name}`);
  const note = noteText(home);
  const pill = row.querySelector(".pill");
  pill.textContent = faults.length ? t("Fault") : note ? note : t("In order");
  pill.dataset.status = faults.length ? "missed" : note ? "recheck-not-now" : "done-not-now";
  cell("heard").textContent = home.heard_unix_s === null ? "–" : t("{time} ago", {time: duration(nowUnixS() - home.heard_unix_s)});
  cell("check").textContent = home.last_check === null ? "–"
    : t("{time}: {how}", {time: clockTime(home.last_check.heard_unix_s), how: ending(home.last_check.why)});
  cell("missed").textContent = String(home.missed);
  cell("missed").classList.toggle("bad", home.missed > 0);
  cell("network").textContent = !home.online ? t("Not connected") : home.tunnel === "fallback" ? t("Without its tunnel") : t("Connected");
  cell("clock").textContent = home.clock === null ? "–" : clockObstacle(home.clock) ? t("Not certain") : t("Certain");
  cell("sw").textContent = home.sw ?? "–";
  cell("agreement").textContent = home.agreement === null ? "–" : `${home.agreement} v${home.version}`;
  cell("log").textContent = home.witnessed?.at_unix_s ? t("witnessed {time}", {time: clockTime(home.witnessed.at_unix_s)}) : "–";
  cell("faults").replaceChildren(...faults.map((one) => {
    const line = document.createElement("li");
    line.textContent = `${fault(one.code)}. ${advice(one.code)}`;
    return line;
  }));
}

export async function showHomes() {
  let homes;
  let faults;
  try {
    [homes, faults] = await Promise.all([getHomes(), getFaults()]);
  } catch (error) {
    complain(error);
    return;
  }
  const rows = homes.map((home) => ({gateway: home.gateway, home, faults: faults.filter((one) => one.gateway === home.gateway)}));
  rows.sort((one, other) => other.faults.length - one.faults.length || one.gateway.localeCompare(other.gateway));
  showRows(byId("fleet"), rows, ({gateway}) => gateway, newRow, fillRow);
}
