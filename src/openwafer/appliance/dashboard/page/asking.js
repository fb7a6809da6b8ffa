// One way to ask the node. The token is kept for this tab alone and goes along in a header, never in an address.
class Refused extends Error {}
class Away extends Error {}
const TOKEN = "wafer-token";
async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) }, token = sessionStorage.getItem(TOKEN);
  if (token === null) throw new Refused("");
  headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const message = told.error?.message ?? `the node answered with status ${answer.status}`;
  throw answer.status === 401 ? new Refused(message) : Object.assign(new Error(message), { status: answer.status });
}
// Characters that turn the direction of text round could make what stands beside a name look like another's.
const turned = /[\u202a-\u202e\u2066-\u2069]/g;
const askJson = async (path) => JSON.parse(await (await ask(path)).text(), (key, value) => (typeof value === "string" ? value.replace(turned, "") : value));
const tell = (path, method, body) => ask(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
const jobPath = (id, rest = "") => `/v1/jobs/${encodeURIComponent(id)}${rest}`;
const filePath = (id, name) => jobPath(id, `/files/${name.split("/").map(encodeURIComponent).join("/")}`);
async function save(path, name) {
  const blob = await (await ask(path)).blob(), url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
// Server-sent events by fetch: an EventSource can carry no token. Calls `take(data)` until the stream says that it is at its end.
async function follow(path, from, signal, take) {
  for (let place = from, wait = 1000; !signal.aborted; ) {
    try {
      const answer = await ask(path, { signal, headers: { "Last-Event-ID": String(place) } });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const lines = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
          if (lines.event === "end") return;
          if (lines.data === undefined) continue;
          take(JSON.parse(lines.data));
          place = Number(lines.id);
          wait = 1000;
        }
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused || error.status === 404) return;
    }
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(8000, 2 * wait);
  }
}
