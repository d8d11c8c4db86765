// While something goes on by itself: look every two seconds, and say what has changed. Without JavaScript there is a link.
// No reload by the clock: what somebody reads stays where it is until there is something new.

const EVERY_MS = 2000;

async function look() {
  const answer = await fetch("/", {headers: {Accept: "text/html"}});
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  const shown = document.querySelector("main");
  if (!fresh || fresh.dataset.step !== shown.dataset.step || !fresh.querySelector("[role=status]")) {
    location.replace("/");
    return;
  }
  const [was, is] = [shown, fresh].map((main) => [...main.querySelectorAll("[role=status]")]);
  was.forEach((line, number) => {
    if (is[number] && line.textContent !== is[number].textContent) line.textContent = is[number].textContent;
  });
}

setInterval(() => look().catch(() => {}), EVERY_MS);
