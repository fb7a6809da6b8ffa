// Which view is open, and one look after the other at the node: every two seconds, less often while it does not answer.
const EVERY_MS = 2000, SLOWEST_MS = 8000;
let timer = null, looking = null, failures = 0, lastAnswer = null, runningVersion = null;
function route() {
  const hash = location.hash.slice(1) || "/", found = /^\/job\/([^/?]+)$/.exec(hash);
  let job = null;
  try { job = found ? decodeURIComponent(found[1]) : null; } catch { job = ""; }
  return { job, query: hash.includes("?") ? hash.slice(hash.indexOf("?") + 1) : "" };
}
function about(view) {
  show(part("about"), [view.version, view.job ? "" : view.user], () => `version ${view.version}${view.user ? `, as ${view.user}${view.admin ? " (administrator)" : ""}` : ""}`);
  // Another version of the node has another page.
  if (runningVersion !== null && runningVersion !== view.version) location.reload();
  runningVersion = view.version;
}
function contact(text, bad) {
  if (part("contact").textContent !== text) part("contact").textContent = text;
  part("contact").className = bad ? "bad" : "";
  for (const name of ["board", "job"]) part(name).classList.toggle("stale", bad);
}
function door(message) {
  closeJob();
  for (const name of ["board", "job", "leave"]) part(name).hidden = true;
  part("door").hidden = false;
  part("refused").textContent = message;
  part("about").textContent = "";
  contact("", false);
  part("token").focus();
}
async function look() {
  clearTimeout(timer);
  if (looking) await looking;
  looking = lookOnce();
  await looking;
  looking = null;
}
async function lookOnce() {
  clearTimeout(timer);
  const { job } = route();
  let wait = EVERY_MS;
  try {
    await (job === null ? lookAtBoard() : lookAtJob(job));
    part("board").hidden = route().job !== null;
    part("job").hidden = route().job === null;
    part("leave").hidden = false;
    part("door").hidden = true;
    failures = 0;
    lastAnswer = Date.now();
    contact("", false);
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
  } catch (error) {
    if (error instanceof Refused) {
      if (sessionStorage.getItem(TOKEN) !== null) sessionStorage.removeItem(TOKEN);
      door(error.message);
      return;
    }
    failures += 1;
    wait = Math.min(SLOWEST_MS, 1000 * 2 ** (failures - 1));
    const since = lastAnswer === null ? "" : ` since ${clock(lastAnswer / 1000)}`;
    contact(error instanceof Away ? `The node does not answer${since}; trying again.` : `${error.message ?? error}`, true);
  }
  clearTimeout(timer);
  timer = setTimeout(look, document.hidden ? 5 * EVERY_MS : wait);
}
function routed() {
  const { job, query } = route();
  if (job === null) {
    closeJob();
    readFilters(query);
  } else if (opened?.id !== job) part("job").hidden = true;
  part("board").hidden = job !== null || part("leave").hidden;
  scrollTo(0, 0);
  look();
}
part("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = part("token").value.trim();
  part("token").value = "";
  // Only what a header can carry; anything else is nobody's token anyway.
  sessionStorage.setItem(TOKEN, token.replace(/[^\x21-\x7e]/g, ""));
  look();
});
part("leave").addEventListener("click", () => { sessionStorage.removeItem(TOKEN); door(""); });
addEventListener("hashchange", routed);
document.addEventListener("visibilitychange", () => { if (!document.hidden && timer !== null) look(); });
prepareBoard();
routed();
