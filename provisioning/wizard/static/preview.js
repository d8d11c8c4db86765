// The installer's preview: an offer to the device, its answer, a lease while somebody looks, and four ways to turn.

const LEASE_MS = 4000;
const GATHER_MS = 300;

const box = document.getElementById("preview");
const video = document.getElementById("picture");
const state = document.getElementById("state");
const look = document.getElementById("look");
const turning = document.getElementById("turning");
const headers = {"X-Setup-Token": box.dataset.token, "Content-Type": "text/plain"};
let connection = null;
let timers = [];
let counter = 0;

function h264Only(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities("video").codecs;
  const fits = codecs.filter((codec) => codec.mimeType.toLowerCase() === "video/h264"
    && /packetization-mode=1/.test(codec.sdpFmtpLine ?? ""));
  if (fits.length) transceiver.setCodecPreferences([...fits, ...codecs.filter((codec) => /rtx/i.test(codec.mimeType))]);
}

function end(words) {
  for (const timer of timers) clearInterval(timer);
  timers = [];
  if (connection) {
    connection.onconnectionstatechange = null;
    connection.close();
    connection = null;
  }
  video.srcObject = null;
  video.load();
  turning.hidden = true;
  look.hidden = false;
  state.textContent = words;
}

async function renew() {
  if (!connection || document.hidden) return;
  counter += 1;
  const answer = await fetch("/preview/lease", {method: "POST", headers, body: String(counter)});
  if (!answer.ok) end(box.dataset.over);
}

async function start() {
  look.hidden = true;
  state.textContent = box.dataset.wait;
  counter = 0;
  connection = new RTCPeerConnection({bundlePolicy: "max-bundle"});
  h264Only(connection.addTransceiver("video", {direction: "recvonly"}));
  connection.ontrack = ({track}) => {
    video.srcObject = new MediaStream([track]);
    video.play().catch(() => {});
  };
  connection.onconnectionstatechange = () => {
    if (["failed", "closed", "disconnected"].includes(connection.connectionState)) end(box.dataset.lost);
  };
  video.onplaying = () => {
    state.textContent = "";
    turning.hidden = false;
  };
  await connection.setLocalDescription(await connection.createOffer());
  await new Promise((resolve) => setTimeout(resolve, GATHER_MS));
  const offer = connection.localDescription.sdp.split(/\r?\n/)
    .filter((line) => !(line.startsWith("a=candidate:") && /\.local\s/.test(line))).join("\r\n");
  const answer = await fetch("/preview", {method: "POST", headers, body: offer});
  const said = await answer.json();
  if (!answer.ok) {
    end(said.message ?? box.dataset.lost);
    return;
  }
  await connection.setRemoteDescription({type: "answer", sdp: said.answer});
  timers.push(setInterval(() => renew().catch(() => end(box.dataset.lost)), LEASE_MS));
  await renew();
}

look.hidden = false;
look.addEventListener("click", () => start().catch(() => end(box.dataset.lost)));
for (const button of turning.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const body = new URLSearchParams({token: box.dataset.token, way: button.dataset.way});
    fetch("/do/nudge", {method: "POST", headers: {"X-Setup-Token": box.dataset.token}, body})
      .then((answer) => answer.json())
      .then(({message}) => { if (connection) state.textContent = message; })
      .catch(() => end(box.dataset.lost));
  });
}
