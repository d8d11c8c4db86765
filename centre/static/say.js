// The console's words in the operator's language. Messages stand in the code in English; the centre serves the
// translations as one JSON object (centre/words.py), which is here before any other module runs.

const response = await fetch("/words.json", {credentials: "same-origin", cache: "no-cache"}).catch(() => null);
const {language, words} = response?.ok ? await response.json() : {language: "en", words: {}};

/** "sv" or "en". */
export {language};

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

/** `message` in the operator's language, its {names} replaced by `values`. */
export const t = (message, values = {}) => fill(words[message] ?? message, values);

/** The same by number: `count` chooses the form, and is {n}. */
export function tn(one, many, count, values = {}) {
  const [singular, plural] = words[`${one}\0${many}`] ?? [one, many];
  return fill(count === 1 ? singular : plural, {n: count, ...values});
}
