// Keeps the page as the fleet is: the server says that something changed, and the page asks for
// itself again and replaces the parts marked data-live. Without this file everything else works.
"use strict";

const PAUSE_MS = 2000; // between two refreshes, however fast the fleet changes
const button = document.querySelector("button.live");
let source = null, due = false, busy = false;

document.documentElement.classList.add("js");

function show(state, text, said) {
  button.dataset.state = state;
  button.querySelector("span").textContent = text;
  if (said) document.getElementById("said").textContent = said;
}

function signIn(why) {
  const back = location.pathname + location.search;
  location.assign("/login?" + new URLSearchParams({ why, back }));
}

// A focused link or field stays so: it is found again by what it leads to.
function replace(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const held = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
  old.replaceWith(fresh);
  if (held) fresh.querySelector(`[href="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

async function refresh() {
  if (!due || busy || document.hidden || !source) return;
  due = false;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { "Som-Refresh": "1" }, redirect: "manual" });
    if (answer.type === "opaqueredirect" || answer.status === 401) return signIn("ended");
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(old.id);
        if (now) replace(old, document.adoptNode(now));
      }
    }
  } catch {
    due = true; // the server is away; the event source says so, and comes back by itself
  } finally {
    setTimeout(() => { busy = false; refresh(); }, PAUSE_MS);
  }
}

function follow() {
  // With what the page shows: what has changed since then is said at once.
  source = new EventSource("/live?" + new URLSearchParams({ seen: button.dataset.seen }));
  source.addEventListener("open", () => {
    show("live", "Live", button.dataset.state === "lost" ? "Connected again" : "");
  });
  source.addEventListener("changed", () => { due = true; refresh(); });
  source.addEventListener("ended", () => signIn("ended"));
  source.addEventListener("error", () => {
    show("lost", "Reconnecting", "The connection to som is lost; trying again");
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      setTimeout(() => { if (source) follow(); }, 5000);
    }
  });
}

function stop() {
  source.close();
  source = null;
  show("paused", "Paused", "Updates are paused");
}

if (button && document.querySelector("[data-live]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const on = source === null;
    button.setAttribute("aria-pressed", on);
    if (on) follow(); else stop();
  });
  document.addEventListener("visibilitychange", refresh);
  follow();
}

// A click on a cell of the field leads to its node.
document.addEventListener("click", (event) => {
  const field = event.target.closest("svg.field");
  if (!field) return;
  const box = field.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / box.width * field.dataset.columns);
  const row = Math.floor((event.clientY - box.top) / box.height * field.dataset.rows);
  const at = row * field.dataset.columns + column;
  if (at < field.dataset.cells) location.assign("/nodes/at/" + at);
});
