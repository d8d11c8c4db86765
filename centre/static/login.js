// The login page: a passkey.

import {postJson} from "./api.js";
import {usePasskey} from "./passkey.js";
import {t} from "./say.js";

const button = document.getElementById("passkey");
const message = document.getElementById("passkey-message");

button.hidden = !window.PublicKeyCredential;
button.addEventListener("click", async () => {
  message.textContent = "";
  try {
    const {login, options} = await postJson("/login/passkey/begin", {});
    await postJson("/login/passkey", {login, credential: await usePasskey(options)});
    location.replace("/");
  } catch {
    message.textContent = t("The passkey did not work. Try again, or ask for a new login link.");
  }
});
