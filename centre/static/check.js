// One check: from Start to a black picture again.
//
// The order is the promise: our offer carries one fingerprint and is signed with the operator's key; the answer's
// device signature and its one fingerprint are verified before the browser gets to see the answer; only then anything
// plays. Whatever goes wrong afterwards ends in `end()`: stream gone, picture black.

import {EyeClock} from "./age.js";
import {command, RefusedError} from "./api.js";
import {sign} from "./jws.js";
import {readWord} from "./picture.js";

const GATHER_MS = 300;
const RELAY_GATHER_MS = 4000;
const MAX_CANDIDATES = 16;
const STALE_MS = 2000;
const CLOCK_EVERY_MS = 1000;
const FALSE_AFTER_MS = 3000;
const FALSE_PACKETS = 30;
const HANG_UP_AFTER_MS = 1000;

/** The one distinct sha-256 fingerprint of an SDP, or null. Chromium would use any other that it found. */
export function onlyFingerprint(sdp) {
  const lines = sdp.split(/\r?\n/).filter((line) => line.toLowerCase().startsWith("a=fingerprint"));
  const found = new Set();
  for (const line of lines) {
    const match = /^a=fingerprint:sha-256 ((?:[0-9A-F]{2}:){31}[0-9A-F]{2})$/i.exec(line);
    if (!match) return null;
    found.add(match[1].toUpperCase());
  }
  return found.size === 1 ? [...found][0] : null;
}

/** Without candidates that the home could only resolve by asking its network (they cost a second), 16 at most. */
export function tidyOffer(sdp) {
  let candidates = 0;
  const kept = sdp.split(/\r?\n/).filter((line) => {
    if (!line.startsWith("a=candidate:")) return true;
    if (/\.local\s/.test(line)) return false;
    candidates += 1;
    return candidates <= MAX_CANDIDATES;
  });
  return kept.join("\r\n");
}

function h264Only(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities("video").codecs;
  const h264 = codecs.filter((codec) => codec.mimeType.toLowerCase() === "video/h264"
    && /packetization-mode=1/.test(codec.sdpFmtpLine ?? ""));
  if (!h264.length) throw new RefusedError("no-h264");
  // Constrained baseline first: it is what every encoder of ours makes. RTX repairs what the network loses.
  const baseline = (codec) => (/profile-level-id=42e0/i.test(codec.sdpFmtpLine) ? 0 : 1);
  h264.sort((one, other) => baseline(one) - baseline(other));
  transceiver.setCodecPreferences([...h264, ...codecs.filter((codec) => codec.mimeType.toLowerCase() === "video/rtx")]);
}

function gathered(connection, needsRelay) {
  return new Promise((resolve, reject) => {
    let timer;
    let hasCandidate = false;
    const finish = (how) => {
      clearTimeout(timer);
      connection.onicecandidate = connection.onicegatheringstatechange = null;
      how();
    };
    // A relay's address takes round trips to get, and an offer without one is useless: that wait is longer.
    const giveUp = () => finish(needsRelay && !hasCandidate ? () => reject(new RefusedError("no-relay")) : resolve);
    timer = setTimeout(giveUp, needsRelay ? RELAY_GATHER_MS : GATHER_MS);
    connection.onicecandidate = ({candidate}) => {
      if (!candidate?.candidate || hasCandidate) return;
      hasCandidate = true;
      if (needsRelay) {
        clearTimeout(timer);
        timer = setTimeout(giveUp, GATHER_MS);
      }
    };
    connection.onicegatheringstatechange = () => {
      if (connection.iceGatheringState === "complete") giveUp();
    };
    if (connection.iceGatheringState === "complete") giveUp();
  });
}

/**
 * A peer connection with its offer, its key and its address at the relay, made before anybody presses Start. `offer` is
 * a promise that rejects with RefusedError; who does not use it calls `close`, which gives the address back.
 */
export function prepare(config, iceServers) {
  const connection = new RTCPeerConnection({
    iceServers,
    iceTransportPolicy: config.ice_policy,
    bundlePolicy: "max-bundle",
  });
  const channel = connection.createDataChannel("check", {ordered: true});
  channel.binaryType = "arraybuffer";
  const offer = (async () => {
    h264Only(connection.addTransceiver("video", {direction: "recvonly"}));
    const waiting = gathered(connection, config.ice_policy === "relay");
    await connection.setLocalDescription(await connection.createOffer());
    await waiting;
    const tidied = tidyOffer(connection.localDescription.sdp);
    if (onlyFingerprint(tidied) === null) throw new RefusedError("offer-fingerprint");
    return tidied;
  })();
  offer.catch(() => {}); // said at Start, to whoever started
  return {connection, channel, offer, close: () => connection.close()};
}

export class Check {
  /**
   * `on` has {sealed(fingerprint), live(), stale(isStale), view(signal), form(isStills), age(ms|null), time(leftS, maxS),
   * ended(error|null)}; `ended` comes once, whatever ends it. `operator` is {key, grant}. `still` is the canvas that
   * stills are drawn on; it is shown instead of the video while it is the picture.
   */
  constructor({operator, home, config, video, still, on}) {
    Object.assign(this, {operator, home, config, video, still, on});
    this.id = null;
    this.isLive = false;
    this.isOver = false;
    this.isStale = true;
    this.counter = 0;
    this.timers = [];
    this.lastFrameMs = 0;
    this.lastCaptureUs = null; // of the picture in front
    this.eyeClock = new EyeClock();
    this.isStills = false;
    this.announced = null; // the `still` word whose picture comes next
    this.unread = 0;
    this.pendingLease = Promise.resolve();
  }

  /** Open the camera for `due` with the nonce of `challenge`, over what `prepare` made; nothing is left open at its end. */
  async start({due, challenge, prepared}) {
    const startedMs = performance.now();
    window.tillsyn = {firstFrameMs: null, frames: 0};
    this.#attach(prepared);
    try {
      const offer = await prepared.offer;
      const opened = await command(this.operator, this.home, "check.open", {
        nonce: challenge.nonce,
        agreement: challenge.agreement,
        version: challenge.version,
        line: due.line,
        occasion: due.occasion,
        attempt: due.attempt,
        offer,
      }, "check.opened");
      if (this.isOver) return;
      this.id = opened.check;
      const fingerprint = onlyFingerprint(opened.answer);
      if (fingerprint === null) {
        void this.#closeAtHome("seal-broken");
        throw new RefusedError("answer-fingerprint");
      }
      this.on.sealed(fingerprint);
      this.#countDown(opened.max_s);
      this.leaseEveryMs = Math.min(opened.lease_every_s, this.config.lease_every_s) * 1000;
      this.#watchFrames(startedMs);
      await this.connection.setRemoteDescription({type: "answer", sdp: opened.answer});
    } catch (error) {
      this.end(error instanceof RefusedError ? error : new RefusedError("picture-lost"));
    }
  }

  #attach({connection, channel}) {
    this.connection = connection;
    this.channel = channel;
    channel.onopen = () => {
      this.renewLease();
      this.#askClock();
      this.timers.push(setInterval(() => this.#askClock(), CLOCK_EVERY_MS));
      this.timers.push(setInterval(() => this.#judgeSeal().catch(() => {}), CLOCK_EVERY_MS));
      this.timers.push(setInterval(() => this.renewLease(), this.leaseEveryMs ?? 5000));
    };
    channel.onclose = () => this.#lost();
    channel.onmessage = ({data}) => this.#hear(data);
    connection.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(connection.connectionState)) this.#failed();
    };
    connection.ontrack = ({track}) => {
      this.video.srcObject = new MediaStream([track]);
      // Autoplay of a muted video is allowed; if it isn't, no frame comes, the picture stays covered and the home ends it.
      this.video.play().catch(() => {});
    };
  }

  /** Tell the home that somebody is looking. A page in a hidden tab isn't, and lets the check run out. */
  renewLease() {
    this.pendingLease = this.pendingLease.then(async () => {
      if (this.isOver || this.id === null || document.hidden || this.channel.readyState !== "open") return;
      this.counter += 1;
      const lease = await sign(this.operator.key, "check.lease", {
        aud: this.home.audience, check: this.id, counter: this.counter,
      });
      if (!this.isOver && this.channel.readyState === "open") this.channel.send(`${this.operator.grant}~${lease}`);
    }).catch(() => this.#lost());
  }

  /** Send the operator's verdict; the check is over once the home has taken it. Throws RefusedError: not taken. */
  async giveVerdict(verdict) {
    const give = () => {
      this.counter += 1;
      return command(this.operator, this.home, "check.verdict", {check: this.id, counter: this.counter, verdict}, "accepted");
    };
    try {
      await give();
    } catch (error) {
      // A lease that was signed after the verdict came before it, by the shorter way.
      if (error.code !== "stale-version" || this.isOver) throw error;
      await give();
    }
    this.end(null);
  }

  /** End the check without a verdict: black at once, and the home is told. */
  close() {
    this.end(null, this.#closeAtHome());
  }

  /** Settles once the home has taken it. If this gets lost, the lease runs out: nobody renews it any more. */
  async #closeAtHome(why) {
    if (this.id === null) return;
    await command(this.operator, this.home, "check.close", {check: this.id, ...(why && {why})}, "accepted").catch(() => {});
  }

  /** DTLS fails only where the certificate is not the one that was signed, here or at the home. */
  #failed() {
    if (this.connection?.sctp?.transport?.state === "failed") this.#sealBroken();
    else this.#lost();
  }

  /** What comes is not the home's. The home and the centre are told, by the signed way. */
  #sealBroken() {
    if (this.isOver) return;
    this.end(new RefusedError("seal-broken"), this.#closeAtHome("seal-broken"));
  }

  /** A covered picture while packets come: if none of them is the home's, they were altered on their way. */
  async #judgeSeal() {
    let arrived = 0;
    let taken = 0;
    for (const one of (await this.connection.getStats()).values()) {
      if (one.type === "transport") arrived = one.packetsReceived ?? 0;
      if (one.type === "inbound-rtp") taken = one.packetsReceived ?? 0;
    }
    const nowMs = performance.now();
    if (!this.isStale || this.isStills || taken !== this.takenAt?.taken) {
      this.takenAt = {taken, arrived, ms: nowMs};
    } else if (nowMs - this.takenAt.ms > FALSE_AFTER_MS && arrived - this.takenAt.arrived > FALSE_PACKETS) {
      this.#sealBroken();
    }
  }

  #countDown(maxS) {
    const endsMs = performance.now() + maxS * 1000;
    const tick = () => this.on.time(Math.max(0, (endsMs - performance.now()) / 1000), maxS);
    tick();
    this.timers.push(setInterval(tick, 250));
  }

  #watchFrames(startedMs) {
    this.startedMs = startedMs;
    const seen = (_now, frame) => {
      if (this.isOver) return;
      // While stills are the picture, video may be tried behind it; its frames are not what is looked at.
      if (!this.isStills || this.still.hidden) this.#shown(this.eyeClock.capturedUs(frame.rtpTimestamp));
      if (!this.isStills) this.still.hidden = true;
      this.video.requestVideoFrameCallback(seen);
    };
    this.video.requestVideoFrameCallback(seen);
    this.timers.push(setInterval(() => this.#judgeAge(), 250));
  }

  /** A picture is in front, video or still, captured then as far as is known. */
  #shown(captureUs) {
    this.lastFrameMs = performance.now();
    this.lastCaptureUs = captureUs;
    if (window.tillsyn.firstFrameMs === null) {
      window.tillsyn.firstFrameMs = this.lastFrameMs - this.startedMs;
      this.isLive = true;
      this.on.live();
    }
    window.tillsyn.frames += 1;
    this.#judgeAge();
  }

  #judgeAge() {
    // An old picture looks like a calm one: that is the one thing it must not be taken for.
    const nowMs = performance.now();
    const ageMs = this.isLive ? this.eyeClock.ageMs(this.lastCaptureUs, nowMs) : null;
    const isStale = !this.isLive || Math.max(ageMs ?? 0, nowMs - this.lastFrameMs) > STALE_MS;
    this.on.age(ageMs);
    if (isStale !== this.isStale) {
      this.isStale = isStale;
      this.on.stale(isStale);
    }
  }

  #askClock() {
    if (this.isOver || this.channel.readyState !== "open") return;
    this.channel.send(JSON.stringify({kind: "ask-clock", asked: this.eyeClock.ask(performance.now())}));
  }

  #hear(data) {
    if (this.isOver) return;
    if (data instanceof ArrayBuffer) {
      void this.#drawStill(data);
      return;
    }
    const word = readWord(data);
    // No word of ours: nothing hangs on it, but whoever looks for a fault wants to know.
    if (word === null) {
      this.unread += 1;
      return;
    }
    switch (word.kind) {
      case "view":
        this.on.view(word.signal);
        break;
      case "clock":
        this.eyeClock.hear(word, performance.now());
        break;
      case "form":
        this.isStills = word.form === "stills";
        this.on.form(this.isStills);
        break;
      case "still":
        this.announced = word;
        break;
    }
  }

  /** Draw the JPEG that was announced, and say so: the home sends the next one then. */
  async #drawStill(data) {
    const word = this.announced;
    this.announced = null;
    if (word === null || data.byteLength !== word.size_bytes) {
      this.unread += 1;
      return;
    }
    let picture;
    try {
      picture = await createImageBitmap(new Blob([data], {type: "image/jpeg"}));
    } catch {
      this.unread += 1; // not a picture; the one before grows old, and is covered
      return;
    }
    if (this.isOver || this.startedMs === undefined) return;
    if (this.isStills) {
      Object.assign(this.still, {width: picture.width, height: picture.height, hidden: false});
      this.still.getContext("2d").drawImage(picture, 0, 0);
      this.#shown(word.t_us);
    }
    picture.close();
    if (this.channel.readyState === "open") this.channel.send(JSON.stringify({kind: "still-shown", number: word.number}));
  }

  #lost() {
    if (!this.isOver) this.end(new RefusedError("picture-lost"));
  }

  /**
   * Take everything down; repeated calls change nothing. The picture is black at once; the line to the home is hung up
   * when `told` has settled, or after a second: a home that sees the line end first records that, and not why.
   */
  end(error, told = null) {
    if (this.isOver) return;
    this.isOver = true;
    this.isLive = false;
    for (const timer of this.timers) clearInterval(timer);
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    this.video.load();
    // A canvas keeps its pixels; this one must not keep somebody's bedroom.
    Object.assign(this.still, {hidden: true, width: 1, height: 1});
    if (this.connection) {
      const connection = this.connection;
      const hangUp = () => connection.close();
      connection.onconnectionstatechange = connection.ontrack = null;
      if (told) {
        const late = new Promise((resolve) => { setTimeout(resolve, HANG_UP_AFTER_MS); });
        void Promise.race([told, late]).then(hangUp);
      } else hangUp();
    }
    this.on.ended(error);
  }
}
