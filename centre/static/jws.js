// JWS in compact form, ES256 only, by WebCrypto: the browser's side of gateway/protocol/envelope.py.
//
// The operator's private key is made here, can't be exported, and stays in this browser's IndexedDB. If the browser
// loses it, the next visit makes a new one and asks for a new grant; nothing else hangs on it.

const MAX_ENVELOPE_BYTES = 16 * 1024;
const FORM = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;
const ALGORITHM = {name: "ECDSA", namedCurve: "P-256"};
const SIGNATURE = {name: "ECDSA", hash: "SHA-256"};

export class VerifyError extends Error {}

function encode(bytes) {
  let text = "";
  for (const byte of new Uint8Array(bytes)) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function decode(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
  // Exactly one text stands for any bytes, so that a signature has one spelling only.
  if (encode(bytes) !== text) throw new VerifyError("base64url with stray bits");
  return bytes;
}

const utf8 = (text) => new TextEncoder().encode(text);
const strictText = (bytes) => new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(bytes);

/** An id that is used once: 128 random bits. */
export function newId() {
  return encode(crypto.getRandomValues(new Uint8Array(16)));
}

/** RFC 7638 thumbprint of a P-256 JWK. */
export async function thumbprint({x, y}) {
  const canonical = `{"crv":"P-256","kty":"EC","x":"${x}","y":"${y}"}`;
  return encode(await crypto.subtle.digest("SHA-256", utf8(canonical)));
}

function inStore(mode, act) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("tillsyn", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("keys");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      const transaction = database.transaction("keys", mode);
      const request = act(transaction.objectStore("keys"));
      transaction.oncomplete = () => { database.close(); resolve(request.result); };
      transaction.onerror = transaction.onabort = () => { database.close(); reject(transaction.error); };
    };
  });
}

/** This operator's key in this browser, made at the first call: {privateKey, jwk, kid}. */
export async function operatorKey(who) {
  const kept = await inStore("readonly", (store) => store.get(who));
  if (kept) return kept;
  const pair = await crypto.subtle.generateKey(ALGORITHM, false, ["sign", "verify"]);
  const {kty, crv, x, y} = await crypto.subtle.exportKey("jwk", pair.publicKey);
  const key = {privateKey: pair.privateKey, jwk: {kty, crv, x, y}, kid: await thumbprint({x, y})};
  await inStore("readwrite", (store) => store.put(key, who));
  return key;
}

/** Forget the key of `who`, at log-out. */
export function forgetKey(who) {
  return inStore("readwrite", (store) => store.delete(who));
}

/** One compact JWS of `kind` over `payload`. */
export async function sign(key, kind, payload) {
  const header = {alg: "ES256", kid: key.kid, typ: `tillsyn.${kind}+jws`};
  const signed = `${encode(utf8(JSON.stringify(header)))}.${encode(utf8(JSON.stringify(payload)))}`;
  const signature = await crypto.subtle.sign(SIGNATURE, key.privateKey, utf8(signed));
  return `${signed}.${encode(signature)}`;
}

const text = (value) => typeof value === "string";
const number = (value) => typeof value === "number";
const list = (value) => Array.isArray(value);
const thing = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const orNull = (check) => (value) => value === null || check(value);

// Closed schemas; a name with "?" may be missing. Source: gateway/protocol/message.py.
const SCHEMA = {
  "check.challenged": {gateway: text, re: text, nonce: text, life_s: number, clock: thing, agreement: text, version: number, due: list},
  "check.opened": {gateway: text, re: text, check: text, answer: text, max_s: number, lease_every_s: number, lease_life_s: number},
  "accepted": {gateway: text, re: text, "version?": orNull(number)},
  "device.returning": {gateway: text, install_epoch: number, re: text, version: number, nonce: text, ledger_size: number},
  "refused": {gateway: text, re: text, code: text},
};

function demandSchema(kind, message) {
  const fields = SCHEMA[kind];
  if (!fields || !thing(message)) throw new VerifyError("schema");
  const left = new Set(Object.keys(message));
  for (const [field, check] of Object.entries(fields)) {
    const name = field.replace("?", "");
    if (!left.delete(name)) {
      if (name === field) throw new VerifyError(`schema: ${name} is missing`);
    } else if (!check(message[name])) {
      throw new VerifyError(`schema: ${name}`);
    }
  }
  if (left.size) throw new VerifyError("schema: unknown field");
}

/**
 * Verify a JWS under the one key `jwk`; gives {kind, message} or throws VerifyError. `expectedKind` is one kind or a
 * list of kinds. The payload is not looked at before the signature holds.
 */
export async function verify(jws, jwk, expectedKind) {
  if (!text(jws) || jws.length > MAX_ENVELOPE_BYTES || !FORM.test(jws)) throw new VerifyError("not a compact JWS");
  const [protectedPart, payloadPart, signaturePart] = jws.split(".");
  let header;
  try {
    header = JSON.parse(strictText(decode(protectedPart)));
  } catch {
    throw new VerifyError("header");
  }
  if (!thing(header) || Object.keys(header).sort().join() !== "alg,kid,typ") throw new VerifyError("header fields");
  if (header.alg !== "ES256") throw new VerifyError("alg");
  if (header.kid !== (await thumbprint(jwk))) throw new VerifyError("signed by another key");
  const kind = [expectedKind].flat().find((one) => header.typ === `tillsyn.${one}+jws`);
  if (kind === undefined) throw new VerifyError("typ");
  const {kty, crv, x, y} = jwk;
  const key = await crypto.subtle.importKey("jwk", {kty, crv, x, y}, ALGORITHM, false, ["verify"]);
  const signature = decode(signaturePart);
  const holds = signature.length === 64
    && (await crypto.subtle.verify(SIGNATURE, key, signature, utf8(`${protectedPart}.${payloadPart}`)));
  if (!holds) throw new VerifyError("signature");
  let message;
  try {
    message = JSON.parse(strictText(decode(payloadPart)));
  } catch {
    throw new VerifyError("payload");
  }
  demandSchema(kind, message);
  return {kind, message};
}
