// WebAuthn in JSON form, for browsers with and without its own parser.

const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));

function encode(buffer) {
  let text = "";
  for (const byte of new Uint8Array(buffer)) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

const descriptor = (one) => ({...one, id: bytes(one.id)});

/** Make a passkey; its public half as JSON text. Throws NotAllowedError when the person does not want to. */
export async function newPasskey(options) {
  const credential = await navigator.credentials.create({publicKey: {
    ...options,
    challenge: bytes(options.challenge),
    user: {...options.user, id: bytes(options.user.id)},
    excludeCredentials: (options.excludeCredentials ?? []).map(descriptor),
  }});
  return JSON.stringify({
    id: credential.id, rawId: encode(credential.rawId), type: credential.type, clientExtensionResults: {},
    response: {
      clientDataJSON: encode(credential.response.clientDataJSON),
      attestationObject: encode(credential.response.attestationObject),
    },
  });
}

/** Sign in with a passkey; the answer as JSON text. */
export async function usePasskey(options) {
  const credential = await navigator.credentials.get({publicKey: {
    ...options,
    challenge: bytes(options.challenge),
    allowCredentials: (options.allowCredentials ?? []).map(descriptor),
  }});
  const {response} = credential;
  return JSON.stringify({
    id: credential.id, rawId: encode(credential.rawId), type: credential.type, clientExtensionResults: {},
    response: {
      clientDataJSON: encode(response.clientDataJSON),
      authenticatorData: encode(response.authenticatorData),
      signature: encode(response.signature),
      userHandle: response.userHandle ? encode(response.userHandle) : null,
    },
  });
}
