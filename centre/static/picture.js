// What the home says beside its picture, on the check's data channel: closed words, read strictly.
//
// Each is one JSON object {"kind": …} with exactly the fields of its row below; anything else is no word. The table
// follows gateway/protocol/picture.py, and a test holds the two together.

const MAX_WORD_CHARS = 4096;

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const share = (value) => typeof value === "number" && value >= 0 && value <= 1;
const whole = (most) => (value) => Number.isSafeInteger(value) && value >= 0 && value <= most;
const oneOf = (...words) => (value) => words.includes(value);
const exactly = (fields) => (value) => isObject(value)
  && Object.keys(value).length === Object.keys(fields).length
  && Object.entries(fields).every(([name, fits]) => Object.hasOwn(value, name) && fits(value[name]));

const orNull = (fits) => (value) => value === null || fits(value);

const captureUs = whole(Number.MAX_SAFE_INTEGER);
const number = whole(2 ** 32 - 1);
export const MAX_STILL_BYTES = 32 * 1024;

const WORDS = {
  view: exactly({
    kind: oneOf("view"),
    signal: exactly({
      t_us: captureUs,
      view: oneOf("clear", "dark", "covered", "blurred", "frozen", "misaimed"),
      luma: share,
      contrast: share,
      sharpness: share,
      motion: share,
      aim: oneOf("measured", "commanded"),
    }),
  }),
  form: exactly({kind: oneOf("form"), form: oneOf("video", "stills")}),
  still: exactly({
    kind: oneOf("still"),
    number,
    t_us: captureUs,
    size_bytes: (value) => whole(MAX_STILL_BYTES)(value) && value > 0,
  }),
  clock: exactly({kind: oneOf("clock"), asked: number, now_us: captureUs, rtp: orNull(number), rtp_us: orNull(captureUs)}),
};

/** The word in a text message of the data channel, or null when it is none. */
export function readWord(text) {
  if (typeof text !== "string" || text.length > MAX_WORD_CHARS) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value) || typeof value.kind !== "string" || !Object.hasOwn(WORDS, value.kind)) return null;
  return WORDS[value.kind](value) ? value : null;
}
