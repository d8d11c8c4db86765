// A home's device: its newest health report and what it logged, fetched when somebody opens it.

import {getOperation} from "./api.js";
import {complain, nowUnixS} from "./desk.js";
import {t} from "./say.js";
import {clockTime, duration} from "./words.js";

const FEW_DAYS = 30;

export function fillDevice(details, gateway) {
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    try {
      const {health, logged} = await getOperation(gateway);
      details.querySelector("ul").replaceChildren(...[...healthLines(health), ...logged.map(loggedLine)].map(item));
    } catch (error) {
      complain(error);
    }
  });
}

function item(text) {
  const line = document.createElement("li");
  line.textContent = text;
  return line;
}

function healthLines(health) {
  if (health === null) return [t("This device has not said yet how it is.")];
  const lines = [
    t("Said {time} ago, running for {up}", {time: duration(nowUnixS() - health.heard_unix_s), up: duration(health.uptime_s)}),
    t("Log: {n} records, {k} witnessed", {n: health.ledger_size, k: health.cosigned_size ?? 0}),
  ];
  if (health.slot) lines.push(t("Runs from slot {slot}", {slot: health.slot}));
  if (typeof health.temperature_c === "number") lines.push(t("Temperature {n} °C", {n: Math.round(health.temperature_c)}));
  if (health.throttled?.length) lines.push(t("Power or heat: {words}", {words: health.throttled.join(", ")}));
  if (typeof health.disk_free_bytes === "number") lines.push(t("Free on its disk: {n} MB", {n: Math.floor(health.disk_free_bytes / 1e6)}));
  if (health.outbox_items) lines.push(t("Waiting to be sent: {n}", {n: health.outbox_items}));
  if (typeof health.certificate_days === "number" && health.certificate_days < FEW_DAYS) {
    lines.push(t("Its certificate ends in {n} days", {n: health.certificate_days}));
  }
  return lines;
}

const loggedLine = ({service, level, event, count, last_unix_s: lastUnixS}) =>
  t("{time} {service}: {event} ({level}, {n} times)", {time: clockTime(lastUnixS), service, event, level: level === "error" ? t("error") : t("warning"), n: count});
