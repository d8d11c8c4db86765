// How old the picture is, by the eye's own capture times. Times of the page are performance.now() in ms, those of the
// eye BOOTTIME in µs. The eye's clock is known to half of the shortest round trip over the data channel.

const RTP_PER_MS = 90;
const KEEP_MS = 20000;

export class EyeClock {
  #asked = new Map();
  #next = 0;
  #best = null; // {tripMs, offsetMs, heardMs}
  #capture = null; // {rtp, us}

  /** The number to ask with, noted as asked at `sentMs`. */
  ask(sentMs) {
    this.#next += 1;
    this.#asked.set(this.#next, sentMs);
    if (this.#asked.size > 16) this.#asked.delete(this.#asked.keys().next().value);
    return this.#next;
  }

  /** Take a `clock` word that came at `heardMs`. An answer that nobody asked for is dropped. */
  hear(word, heardMs) {
    const sentMs = this.#asked.get(word.asked);
    if (sentMs === undefined) return;
    this.#asked.delete(word.asked);
    if (word.rtp !== null && word.rtp_us !== null) this.#capture = {rtp: word.rtp, us: word.rtp_us};
    const tripMs = heardMs - sentMs;
    // A short trip tells the offset best; an old one of another path or a drifting clock no longer counts.
    if (this.#best === null || tripMs <= this.#best.tripMs || heardMs - this.#best.heardMs > KEEP_MS) {
      this.#best = {tripMs, offsetMs: word.now_us / 1000 - (sentMs + heardMs) / 2, heardMs};
    }
  }

  /** Age in ms at `nowMs` of what was captured at `us`, or null while the eye's clock is unknown. */
  ageMs(us, nowMs) {
    return this.#best === null || us === null ? null : Math.max(0, nowMs + this.#best.offsetMs - us / 1000);
  }

  /** When the video frame with this RTP timestamp was captured, in µs, or null. */
  capturedUs(rtp) {
    if (this.#capture === null || rtp === undefined) return null;
    // The difference wraps at 2^32 and may be negative.
    return this.#capture.us + (((rtp - this.#capture.rtp) | 0) / RTP_PER_MS) * 1000;
  }
}
