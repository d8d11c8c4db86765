// The broker moves: each home that is ticked gets its new address, signed in this browser by the steward's key, and
// answers for itself. A home that finds no centre there is back at the old address after ten minutes (docs/network.md).

import {command, getHome} from "./api.js";
import {byId, desk, may, nowUnixS, say} from "./desk.js";
import {chosenHomes, forEach, patiently} from "./overview.js";
import {t} from "./say.js";
import {refusal} from "./words.js";

const written = (name) => byId("broker-box").querySelector(`[name="${name}"]`).value.trim();

/** The new address, or null where something is missing: the fallback is given whole or not at all. */
function settings() {
  const broker = {broker_host: written("host"), broker_port: Number(written("port")), broker_name: written("name")};
  const fallback = {
    broker_host: written("fallback-host"), broker_port: Number(written("fallback-port")),
    relay_host: written("relay-host"), relay_port: Number(written("relay-port")),
  };
  const given = Object.values(fallback).filter(Boolean).length;
  if (Object.values(broker).some((one) => !one) || (given !== 0 && given !== 4)) return null;
  // The version only has to rise from order to order, whoever gives it: the second it was given in does.
  return {version: Math.floor(nowUnixS()), ...broker, ...(given === 4 && {fallback})};
}

async function sendAll() {
  const list = byId("broker-answers");
  const homes = chosenHomes();
  const address = settings();
  list.replaceChildren();
  if (homes.length === 0) {
    say(t("Tick the homes in the list first."), "bad");
    return;
  }
  if (address === null) {
    say(t("Write host, port and name of the broker; of the fallback all four or nothing."), "bad");
    return;
  }
  byId("broker-send").disabled = true;
  let accepted = 0;
  await forEach(homes, async (gateway) => {
    const line = document.createElement("li");
    line.textContent = t("{gateway}: sent, waiting for the home…", {gateway});
    list.append(line);
    try {
      await patiently(async () => command(desk.operator, await getHome(gateway), "config.put", {settings: address}, "accepted"));
      accepted += 1;
      line.textContent = t("{gateway}: tries the new address", {gateway});
      line.classList.add("good");
    } catch (error) {
      line.textContent = `${gateway}: ${refusal(error)}`;
      line.classList.add("bad");
    }
  });
  byId("broker-send").disabled = false;
  say(t("{n} of {all} homes have accepted.", {n: accepted, all: homes.length}), accepted === homes.length ? "good" : "bad");
}

export function beginBroker() {
  byId("broker-box").hidden = !may("steward");
  byId("broker-box").addEventListener("submit", (event) => event.preventDefault());
  byId("broker-send").addEventListener("click", () => { void sendAll(); });
}
