// The independent JOSE implementation (npm: jose) behind one line of JSON in and one out, for test_jose_interop.py.
//
// {"do": "sign", "header": …, "payload": …, "alg": "ES256"} makes a key and signs; the header's kid becomes its thumbprint.
//   → {"jws": …, "jwk": …}
// {"do": "verify", "jws": …, "jwk": …} → {"header": …, "payload": …} or {"error": …}
// {"do": "thumbprint", "jwk": …} → {"kid": …}
import {
  CompactSign,
  calculateJwkThumbprint,
  compactVerify,
  exportJWK,
  generateKeyPair,
  importJWK,
} from "jose";
import {createInterface} from "node:readline";

async function answer(order) {
  switch (order.do) {
    case "sign": {
      const {publicKey, privateKey} = await generateKeyPair(order.alg, {extractable: true});
      const jwk = await exportJWK(publicKey);
      const kid = await calculateJwkThumbprint(jwk);
      const jws = await new CompactSign(new TextEncoder().encode(JSON.stringify(order.payload)))
        .setProtectedHeader({...order.header, alg: order.alg, kid})
        .sign(privateKey);
      return {jws, jwk};
    }
    case "verify":
      try {
        const key = await importJWK(order.jwk, "ES256");
        const {payload, protectedHeader} = await compactVerify(order.jws, key, {algorithms: ["ES256"]});
        return {header: protectedHeader, payload: JSON.parse(new TextDecoder().decode(payload))};
      } catch (error) {
        return {error: error.code ?? String(error)};
      }
    case "thumbprint":
      return {kid: await calculateJwkThumbprint(order.jwk)};
    default:
      throw new Error(`no such order: ${order.do}`);
  }
}

for await (const line of createInterface({input: process.stdin})) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
