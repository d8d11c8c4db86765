// The centre's API, and the errors that it and the homes give.

import {newId, sign, verify, VerifyError} from "./jws.js";

/** Something the operator is told in words; `code` is the centre's or the home's. */
export class RefusedError extends Error {
  constructor(code, message) {
    super(message ?? code);
    this.code = code;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {credentials: "same-origin", cache: "no-store", redirect: "error", ...options});
  } catch {
    throw new RefusedError("centre-unreachable");
  }
  let body;
  try {
    body = await response.json();
  } catch {
    throw new RefusedError("centre-unreachable");
  }
  if (!response.ok) throw new RefusedError(body.error, body.message);
  return body;
}

export const getConfig = () => ask("/api/v1/config");
export const getHomes = () => ask("/api/v1/homes?last=0");
export const getHome = (gateway) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}`);
export const getQueue = () => ask("/api/v1/queue");
export const getOperation = (gateway) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}/operation`);
export const getFaults = () => ask("/api/v1/faults");
export const takeFault = (gateway, code) => postJson(`/api/v1/homes/${encodeURIComponent(gateway)}/faults/take`, {code});
export const claim = (gateway, {line, occasion}) => postJson(`/api/v1/homes/${encodeURIComponent(gateway)}/claim`, {line, occasion});
export const release = (gateway, {line, occasion}) => postJson(`/api/v1/homes/${encodeURIComponent(gateway)}/release`, {line, occasion});
export const getPlan = () => ask("/api/v1/plan");
export const getAgreements = (gateway) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}/agreements`);
export const getMeaning = (agreement) => postJson("/api/v1/plan/meaning", {agreement});
export const getReturns = () => ask("/api/v1/returns");
export const closeReturn = (gateway, why) => postJson(`/api/v1/homes/${encodeURIComponent(gateway)}/return/close`, {why});
export const getDrafts = () => ask("/api/v1/drafts");
export const endDraft = (id) => postJson(`/api/v1/drafts/${encodeURIComponent(id)}/end`, {});
export const sendTrust = (gateway, statement) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}/trust`, {
  method: "POST", headers: {"Content-Type": "text/plain"}, body: statement,
});
export const planRollout = (offer) => postJson("/api/v1/fleet/plan", {offer});
export const startRollout = (offer, plan) => postJson("/api/v1/fleet/rollouts", {offer, plan});
export const getRollouts = () => ask("/api/v1/fleet/rollouts");
export const getExecutions = (id) => ask(`/api/v1/fleet/rollouts/${encodeURIComponent(id)}/executions`);
export const getUpdates = (gateway) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}/updates`);
export const changeRollout = (id, act) => postJson(`/api/v1/fleet/rollouts/${encodeURIComponent(id)}/${act}`, {});
export const getAudit = (after) => ask(`/api/v1/audit?after=${after}`);
export const getDeliveries = (id) => ask(`/api/v1/handovers/${encodeURIComponent(id)}/deliveries`);
export const getPasskeys = () => ask("/api/v1/passkeys");
export const beginPasskey = () => postJson("/api/v1/passkeys/begin", {});
export const finishPasskey = (login, credential) => postJson("/api/v1/passkeys", {login, credential});
export const removePasskey = (id) => postJson("/api/v1/passkeys/remove", {credential_id: id});
export const getLog = (gateway, newest) => ask(`/api/v1/homes/${encodeURIComponent(gateway)}/ledger?newest=${newest}`);
export const getHandovers = () => ask("/api/v1/handovers");
export const acknowledgeHandover = (id) => postJson(`/api/v1/handovers/${encodeURIComponent(id)}/acknowledge`, {});
export const arriveHandover = (id) => postJson(`/api/v1/handovers/${encodeURIComponent(id)}/arrive`, {});
export const finishHandover = (id, outcome) => postJson(`/api/v1/handovers/${encodeURIComponent(id)}/done`, {outcome});
export const logOut = () => postJson("/logout", {});
export const getGrant = (jwk) => postJson("/api/v1/grants", {jwk});

/** The relay's servers with credentials for one check; the home gets its own at the same time. */
export const getIceServers = async (gateway) => (await postJson(`/api/v1/homes/${encodeURIComponent(gateway)}/relay`, {})).ice_servers;

export function postJson(path, value) {
  return ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(value)});
}

/** One command, signed and ready to be sent or carried: {jti, envelope}. */
export async function signCommand({key, grant}, home, kind, values) {
  const jti = newId();
  return {jti, envelope: `${grant}~${await sign(key, kind, {aud: home.audience, jti, ...values})}`};
}

/** Send what `signCommand` gave; see `command`. */
export async function sendSigned(home, {jti, envelope}, answerKind) {
  const {reply} = await ask(`/api/v1/homes/${encodeURIComponent(home.gateway)}/commands`, {
    method: "POST",
    headers: {"Content-Type": "text/plain"},
    body: envelope,
  });
  let verified;
  try {
    verified = await verify(reply, home.device_jwk, [answerKind, "refused"]);
  } catch (error) {
    if (error instanceof VerifyError) throw new RefusedError("forged-reply");
    throw error;
  }
  const {kind: answered, message} = verified;
  if (message.re !== jti || message.gateway !== home.gateway) throw new RefusedError("forged-reply");
  if (answered === "refused") throw new RefusedError(message.code);
  return message;
}

/**
 * Sign a command, send it to the home, verify what the home's own key answered. Gives the message of `answerKind`;
 * throws RefusedError with the home's code, the centre's, or `forged-reply` when the answer is not the home's.
 */
export async function command(operator, home, kind, values, answerKind) {
  return await sendSigned(home, await signCommand(operator, home, kind, values), answerKind);
}
