// What all parts of the page share: what is known, which home is open, and what the page says.

import {RefusedError} from "./api.js";
import {refusal} from "./words.js";

export const byId = (id) => document.getElementById(id);
export const nowMs = () => performance.now();

export const desk = {
  config: null,
  operator: null, // {key, grant}
  grantExpUnixS: 0,
  clockOffsetS: 0,
  queue: {items: [], counts: {}},
  handovers: [],
  view: "queue", // or home, homes, handovers, plan, audit, account
  gateway: null, // the home that is open
  home: null, // what the centre knows of it
  check: null,
  isStarting: false,
  inputMs: 0,
  refresh: async () => {}, // news.js puts the real one here
};

export const nowUnixS = () => Date.now() / 1000 + desk.clockOffsetS;
export const openHome = () => (desk.home?.gateway === desk.gateway ? desk.home : undefined);
export const may = (...roles) => roles.some((role) => desk.config.roles.includes(role));

/** Only a change is written: the same words again are no news to a screen reader. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function say(text, tone = "plain") {
  const message = byId("message");
  message.dataset.tone = tone;
  setText(message, text);
}

export const complain = (error) => say(refusal(error instanceof RefusedError ? error : {}), "bad");

/**
 * Make `list` show `items` in order: rows are kept by `data-id` and moved, not made anew, so that the keyboard focus
 * stays where it is. `make(item)` gives a new row, `fill(row, item)` writes it.
 */
export function showRows(list, items, idOf, make, fill) {
  const kept = new Map([...list.children].map((row) => [row.dataset.id, row]));
  for (const [place, item] of items.entries()) {
    const id = idOf(item);
    const row = kept.get(id) ?? make(item);
    row.dataset.id = id;
    kept.delete(id);
    fill(row, item);
    if (list.children[place] !== row) {
      const focused = row.contains(document.activeElement) ? document.activeElement : null;
      list.insertBefore(row, list.children[place] ?? null);
      focused?.focus();
    }
  }
  for (const row of kept.values()) row.remove();
}

export const fromTemplate = (id) => byId(id).content.firstElementChild.cloneNode(true);
